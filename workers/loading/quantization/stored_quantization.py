"""Checkpoints that were quantized ahead: which method, and what loading them needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parquetry.schemas.errors import UnsupportedQuantizationError
from parquetry.workers.card import Card
from parquetry.workers.checkpoint.tensor_headers import TensorHeader
from parquetry.workers.loading.quantization.four_bit_scheme import (
    four_bit_obstacle,
    four_bit_scheme,
    quantization_section,
)
from parquetry.workers.packages import require


@dataclass(frozen=True)
class StoredMethod:
    """What transformers' quantizer of one method asks for."""

    #: modules it needs anywhere
    modules: tuple[str, ...] = ()
    #: modules its kernels come in, on a card that has them; elsewhere the weights are expanded as they are loaded
    kernels: tuple[str, ...] = ()
    #: lowest compute capability of a CUDA card with those kernels
    kernels_from: tuple[int, int] = (0, 0)
    #: lowest compute capability of a CUDA card it runs on at all, (0, 0) for any; None where a CPU does as well
    capability: tuple[int, int] | None = None


#: quant_method of config.json -> what it needs
METHODS: dict[str, StoredMethod] = {
    "gptq": StoredMethod(("optimum", "gptqmodel")),
    "awq": StoredMethod(("gptqmodel", "accelerate")),
    "compressed-tensors": StoredMethod(("compressed_tensors",)),
    "bitsandbytes": StoredMethod(("bitsandbytes", "accelerate")),
    "torchao": StoredMethod(("torchao",)),
    "fp8": StoredMethod(("accelerate",), kernels=("kernels",), kernels_from=(8, 9)),
    "mxfp8": StoredMethod(("accelerate",), kernels=("kernels",), kernels_from=(8, 9)),
    "mxfp4": StoredMethod(("accelerate",), kernels=("kernels", "triton"), kernels_from=(7, 5)),
    "aqlm": StoredMethod(("aqlm", "accelerate")),
    "hqq": StoredMethod(("hqq",)),
    "eetq": StoredMethod(("kernels", "accelerate"), capability=(0, 0)),
    "fbgemm_fp8": StoredMethod(("fbgemm_gpu", "accelerate"), capability=(9, 0)),
    "quark": StoredMethod(("quark",)),
    "auto-round": StoredMethod(("auto_round",)),
}


def stored_method(config: Mapping[str, Any]) -> str | None:
    """quant_method of a checkpoint's config.json, None for plain weights."""
    section = quantization_section(config)
    if not section:
        return None
    if section.get("load_in_8bit") or section.get("load_in_4bit"):
        return "bitsandbytes"
    return str(section.get("quant_method") or "an unnamed method")


def check_stored(config: Mapping[str, Any], card: Card, headers: Mapping[str, TensorHeader] | None = None) -> None:
    """Raise MissingPackageError when the checkpoint's own quantization needs a package that is not here.

    A method that is not known, or that the card cannot compute, is UnsupportedQuantizationError. Weights of 4 bits
    whose layout our own layers read need no package.
    """
    name = stored_method(config)
    if name is None or four_bit_scheme(config, headers or {}) is not None:
        return
    method = known_method(name)
    if method.capability is not None and not card.reaches(method.capability):
        least = " of compute capability {}.{} or newer".format(*method.capability) if any(method.capability) else ""
        reason = f"the checkpoint needs a CUDA card{least}, and {card.description}"
        raise UnsupportedQuantizationError(quantization=name, reason=reason)
    for module in (*method.modules, *(method.kernels if card.reaches(method.kernels_from) else ())):
        require(module, feature=_feature(name, four_bit_obstacle(config, headers or {})))


def _feature(name: str, obstacle: str | None) -> str:
    """What needs a package, and why our own layers do not do."""
    return f"a checkpoint quantized with {name}" + ("" if obstacle is None else f" ({obstacle})")


def known_method(name: str) -> StoredMethod:
    """What the method needs. Raises UnsupportedQuantizationError when nothing here loads it."""
    if name not in METHODS:
        reason = f"no loader knows how the checkpoint was quantized; known are {', '.join(sorted(METHODS))}"
        raise UnsupportedQuantizationError(quantization=name, reason=reason)
    return METHODS[name]


def is_expanded(config: Mapping[str, Any], card: Card) -> bool:
    """Whether the checkpoint's weights lose their small format on this card, which has no kernels for it."""
    method = METHODS.get(stored_method(config) or "")
    return method is not None and bool(method.kernels) and not card.reaches(method.kernels_from)
