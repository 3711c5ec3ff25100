"""What a worker must have installed, and which card, to run a job's engine: names that a job and a worker compare."""

from __future__ import annotations

from collections.abc import Iterable

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.packages import is_installed

#: back end -> the packages it needs, and the extra that brings them
BACKENDS: dict[str, tuple[tuple[str, ...], str]] = {
    "auto": (("torch", "transformers", "accelerate"), "torch"),
    "onnxruntime": (("onnxruntime",), "onnx"),
    "optimum": (("optimum", "onnxruntime"), "optimum"),
    "vllm": (("vllm",), "vllm"),
}
#: back ends that share no environment with the others: their jobs wait in a queue of the same name
OWN_QUEUES = ("optimum", "vllm")
#: quantization -> its package, where it has one beside the back end's
QUANTIZATIONS = {
    "int8": "bitsandbytes",
    "nf4": "bitsandbytes",
    "fp4": "bitsandbytes",
    "fp8": "torchao",
    "int8-weight-only": "torchao",
}
#: quantization -> least compute capability of a CUDA card
CAPABILITIES = {"fp8": (8, 9)}
ATTENTIONS = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
ON_CARDS_ONLY = frozenset({"triton", "sdpa-efficient", "sdpa-cudnn", *ATTENTIONS})
CARD = "a CUDA card"
_CAPABLE = "a CUDA card of compute capability "


def engine_needs(model: ModelSpec) -> tuple[str, ...]:
    """What the engine of a model needs: packages by the name they are imported by, and a card."""
    packages, _ = BACKENDS.get(model.backend, BACKENDS["auto"])
    if model.backend in ("onnxruntime", "optimum"):
        return packages
    found = [*packages]
    if model.quantization in QUANTIZATIONS and model.backend != "vllm":
        found.append(QUANTIZATIONS[model.quantization])
    if model.attention in ATTENTIONS:
        found.append(ATTENTIONS[model.attention])
    if capability := CAPABILITIES.get(model.quantization):
        found.append(f"{_CAPABLE}{capability[0]}.{capability[1]}")
    elif model.attention in ON_CARDS_ONLY:
        found.append(CARD)
    return tuple(found)


def installed() -> tuple[str, ...]:
    """The packages of this machine that an engine may need."""
    of_backends = [package for packages, _ in BACKENDS.values() for package in packages]
    names = dict.fromkeys([*of_backends, *QUANTIZATIONS.values(), *ATTENTIONS.values()])
    return tuple(name for name in names if is_installed(name))


def of_card(capability: tuple[int, int]) -> tuple[str, ...]:
    """What a worker with such a card offers beside its packages."""
    reached = [least for least in CAPABILITIES.values() if capability >= least]
    return (CARD, *(f"{_CAPABLE}{least[0]}.{least[1]}" for least in reached))


def lacking(needs: Iterable[str], offers: Iterable[str]) -> tuple[str, ...]:
    """What is needed and not offered."""
    offered = set(offers)
    return tuple(need for need in needs if need not in offered)
