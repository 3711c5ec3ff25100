"""What an exported file computes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.schemas.spec.job import Task
from parquetry.workers.checkpoint.pooling import modes_of
from parquetry.workers.cpu import this_cpu

#: raised whenever an export of the same weights would come out differently
_VERSION = 5


def int8_weight_bits() -> Literal[7, 8]:
    """Bits of int8 weights whose products this machine's processor adds up without loss."""
    return 7 if this_cpu().saturates_int8 else 8


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """What the file computes. Equal specs over equal weights give one file."""

    task: Task
    #: packed: rows end to end, for the CUDA provider; padded: rows in a rectangle, for every provider
    form: Literal["padded", "packed"] = "padded"
    dtype: Literal["float32", "float16"] = "float32"
    #: how embeddings are pooled, for task embed: a mode of `parquetry.workers.checkpoint.pooling`
    pooling: str = "mean"
    #: int8: matrix products in 8 bits, activations scaled as they come (CPU)
    quantization: Literal["none", "int8"] = "none"
    #: of int8 weights; where sums of 8-bit products are cut off, 7 bits are as many as stay exact
    weight_bits: Literal[7, 8] = field(default_factory=int8_weight_bits)
    #: fused: attention as ONNX Runtime's own operator; plain: ONNX's operators alone, for providers that compile
    attention: Literal["fused", "plain"] = "fused"

    def __post_init__(self) -> None:
        if self.quantization == "int8" and (self.form, self.dtype) != ("padded", "float32"):
            reason = "ONNX int8 is made of the padded float32 graph, which runs on CPUs"
            raise UnsupportedOptionError(option=f"quantization int8 with {self.form} {self.dtype}", reason=reason)
        if self.form == "packed" and self.dtype != "float16":
            raise UnsupportedOptionError(option=f"a packed {self.dtype} graph", reason="the packed operator is float16")
        if self.form == "packed" and self.task == "embed" and "max" in modes_of(self.pooling):
            raise UnsupportedOptionError(option="embed.pooling max", reason="the packed ONNX graph cannot express it")
        if self.form == "packed" and self.attention == "plain":
            raise UnsupportedOptionError(option="a packed plain graph", reason="packed attention is a fused operator")

    def graph(self) -> dict[str, Any]:
        """What of the spec makes a difference to the file: classify and score share their logits."""
        found = {"version": _VERSION, **asdict(self)}
        if self.task != "embed":
            found.update(task="logits", pooling=None)
        if self.quantization != "int8":
            del found["weight_bits"]
        return found
