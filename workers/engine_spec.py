"""Everything an engine process must know to load its model: two jobs with equal specs share one engine."""

from __future__ import annotations

import hashlib
from functools import cached_property

from pydantic import BaseModel, ConfigDict

from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.job import ModelSpec, Task

#: back ends that load no torch model of ours, and the quantizations each knows
OTHER_RUNTIMES: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("none", "int8"),
    "optimum": ("none",),
    "vllm": ("none", "fp8"),
}


class EngineSpec(BaseModel):
    """One model, one task, one device or one device group."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    task: Task
    #: the folder, or hub id and commit, that the job's model resolved to at submit
    model_path: str
    #: how the weights are loaded; its `id` is `model_path`
    model: ModelSpec
    #: pooling of task embed, None for the other tasks
    pooling: str | None = None
    #: whether embeddings have length one
    normalize: bool = True
    #: whether prompts hold images
    images: bool = False
    #: numbers of an embedding that are kept, None for all (or what the model says)
    dimensions: int | None = None
    #: "cpu" or "cuda:0"; "cuda:0,1" is a device group of two cards, and "cpu:0,1" two ranks on the CPU
    device: str = "cpu"
    #: tokens one batch may hold, None lets the engine choose
    token_budget: int | None = None
    #: the one shard that may use the engine; None shares it among all that need the same model
    reserved_for: str | None = None

    @classmethod
    def of(cls, record: JobRecord, *, device: str = "cpu") -> EngineSpec:
        """The engine a job needs on `device`."""
        spec = record.spec
        embed = spec.embed if spec.task == "embed" else None
        return cls(
            task=spec.task,
            model_path=record.model_path,
            # which column names a row's adapter is no concern of the engine
            model=spec.model.model_copy(update={"id": record.model_path, "adapter_column": None}),
            images=spec.task == "generate" and spec.prompt.image is not None,
            device=device,
            token_budget=settings().token_budget,
            pooling=embed.pooling if embed else None,
            normalize=embed.normalize if embed else True,
            dimensions=embed.dimensions if embed else None,
        )

    @property
    def devices(self) -> tuple[str, ...]:
        """The device of each rank: "cuda:0" and "cuda:1" of "cuda:0,1"."""
        kind, _, numbers = self.device.partition(":")
        return tuple(f"{kind}:{number}" if kind == "cuda" else kind for number in (numbers or "0").split(","))

    def on(self, rank: int) -> EngineSpec:
        """The spec of one rank, on its own device."""
        return self.model_copy(update={"device": self.devices[rank]})

    @cached_property
    def key(self) -> str:
        """16 hex digits: equal for equal engines, whatever the machine they run on."""
        return _digest(self.model_dump_json(exclude={"device", "token_budget"}))

    @cached_property
    def weights_key(self) -> str:
        """16 hex digits: equal for engines that can use the same loaded weights, one after the other."""
        if self.model.backend in OTHER_RUNTIMES:
            return self.key
        upon = dict.fromkeys(("device", "token_budget", "pooling", "normalize", "dimensions"), True)
        text = self.model_dump_json(exclude={**upon, "model": {"attention", "kv_dtype", "compile", "backend"}})
        # decided by the back end, and part of the loaded weights
        threshold = int8_threshold(self.model) if self.model.quantization == "int8" else None
        return _digest(f"{text} {threshold}")

    @property
    def model_key(self) -> str:
        """`weights:engine`, by which a claim prefers the loaded engine, and then any on its weights."""
        return f"{self.weights_key}:{self.key}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def int8_threshold(model: ModelSpec) -> float:
    """Activations above it stay in half precision; 0 quantizes all of them.

    Left open, it is zero wherever rows are packed, and the library's 6.0 in the padded back end.
    """
    if model.int8_threshold is not None:
        return model.int8_threshold
    return 6.0 if model.backend == "transformers" else 0.0
