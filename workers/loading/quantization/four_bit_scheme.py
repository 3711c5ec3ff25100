"""Which checkpoints of 4 bits our own layers read, told from config.json and the headers of the files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from parquetry.workers.checkpoint.tensor_headers import TensorHeader

#: kernels read inputs in runs of as many, each of one group
GROUP_UNIT = 16
#: the tensor with the codes of a module, by method
CODES = {"gptq": "qweight", "awq": "qweight", "compressed-tensors": "weight_packed"}
#: experts under numbers of their own, which transformers holds in one tensor
_EXPERT = re.compile(r"\.experts\.\d+\.")
#: what GPTQ puts before the pattern of modules that it leaves as they are
_LEFT_OUT = "-:"

Section = Mapping[str, Any]


@dataclass(frozen=True)
class FourBitScheme:
    """How codes, scales and zero points lie in the files."""

    #: gptq, awq or compressed-tensors
    method: str
    #: inputs with one scale; -1 for all of them
    group_size: int
    #: what stored zero points lack
    zero_offset: int = 0

    @property
    def codes(self) -> str:
        """The tensor with the codes of a module."""
        return CODES[self.method]

    def modules(self, names: Mapping[str, TensorHeader]) -> list[str]:
        """Modules of the checkpoint whose weights have 4 bits; lists of modules to leave out are in the files too."""
        end = f".{self.codes}"
        return [name.removesuffix(end) for name in names if name.endswith(end)]


def quantization_section(config: Mapping[str, Any]) -> Section | None:
    """What config.json says of a checkpoint that was quantized ahead, None for plain weights."""
    return config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")


def four_bit_scheme(config: Mapping[str, Any], headers: Mapping[str, TensorHeader]) -> FourBitScheme | None:
    """How our layers read the checkpoint, None where they do not."""
    section = quantization_section(config)
    if section is None or section.get("quant_method") not in CODES or four_bit_obstacle(config, headers):
        return None
    method = section["quant_method"]
    size = _group_sizes(section)[0]
    return FourBitScheme(method, size, 1 if method == "gptq" and _format(section) != "gptq_v2" else 0)


def four_bit_obstacle(config: Mapping[str, Any], headers: Mapping[str, TensorHeader]) -> str | None:
    """Why our layers do not read a checkpoint of one of the three methods, or None where they do, or it is another."""
    section = quantization_section(config) or {}
    method = section.get("quant_method")
    if method not in CODES:
        return None
    expert = next((name for name in headers if _EXPERT.search(name) and name.endswith(CODES[method])), None)
    if expert is not None:
        return f"its experts are quantized, such as {expert}"
    try:
        return next(_OBSTACLES[method](section), None)
    except (AttributeError, TypeError, ValueError) as error:
        return f"its quantization_config cannot be read ({error})"


def _gptq_obstacles(section: Section) -> Iterator[str]:
    yield from _number_obstacles(section)
    if _format(section) not in ("gptq", "gptq_v2") or section.get("is_marlin_format"):
        yield f"its format is {'marlin' if section.get('is_marlin_format') else _format(section)}"
    for pattern, changes in (section.get("dynamic") or {}).items():
        if not pattern.startswith(_LEFT_OUT) and any(changes.get(k, section.get(k)) != section.get(k) for k in changes):
            yield f"modules of {pattern} have settings of their own"


def _awq_obstacles(section: Section) -> Iterator[str]:
    yield from _number_obstacles(section)
    version = "llm-awq" if section.get("backend") == "llm-awq" else section.get("version") or section.get("format")
    if str(version or "gemm").lower() != "gemm":
        yield f"its version is {version}"
    if not section.get("zero_point", True):
        yield "it has no zero points"


def _compressed_obstacles(section: Section) -> Iterator[str]:
    groups = list((section.get("config_groups") or {}).values())
    formats = {section.get("format"), *(group.get("format") for group in groups)} - {None}
    if formats != {"pack-quantized"}:
        yield f"its format is {' and '.join(sorted(map(str, formats))) or 'not told'}"
    if (sparse := (section.get("sparsity_config") or {}).get("format", "dense")) != "dense":
        yield f"its weights are stored sparse ({sparse})"
    if section.get("transform_config"):
        yield "its activations are transformed"
    for group in groups:
        yield from _group_obstacles(group)
    if len(sizes := set(_group_sizes(section))) > 1:
        yield f"its modules have groups of different sizes ({', '.join(map(str, sorted(sizes)))})"


def _group_obstacles(group: Section) -> Iterator[str]:
    weights = group.get("weights") or {}
    if group.get("input_activations") or group.get("output_activations"):
        yield "its activations are quantized"
    if weights.get("type", "int") != "int" or weights.get("strategy") not in ("group", "channel"):
        yield f"its weights are {weights.get('type')} by {weights.get('strategy')}"
    yield from _number_obstacles({"bits": weights.get("num_bits"), "group_size": weights.get("group_size")})


def _number_obstacles(section: Section) -> Iterator[str]:
    bits = section.get("bits", section.get("w_bit"))
    if bits != 4:
        yield "it does not tell the bits of its weights" if bits is None else f"its weights have {bits} bits"
    size = _group_size(section)
    if size != -1 and (size < GROUP_UNIT or size % GROUP_UNIT):
        yield f"its groups of {size} are no multiple of {GROUP_UNIT}"


def _group_sizes(section: Section) -> list[int]:
    """Of the whole checkpoint, or of every set of modules with settings of its own."""
    if section.get("quant_method") != "compressed-tensors":
        return [_group_size(section)]
    return [_group_size(group.get("weights") or {}) for group in (section.get("config_groups") or {}).values()] or [-1]


def _group_size(section: Section) -> int:
    size = section.get("group_size", section.get("q_group_size"))
    return -1 if size in (None, -1) else int(size)


def _format(section: Section) -> str:
    return str(section.get("checkpoint_format") or section.get("format") or "gptq").lower()


_OBSTACLES: dict[str, Callable[[Section], Iterator[str]]] = {
    "gptq": _gptq_obstacles,
    "awq": _awq_obstacles,
    "compressed-tensors": _compressed_obstacles,
}
