"""Loads a model into vLLM and puts our engine on it."""

from __future__ import annotations

import importlib.metadata
import re
from typing import TYPE_CHECKING

from parquetry.schemas.errors import MissingPackageError, UnusableModelError
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.encoding.outputs.vectors import Vectors
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.loading.needs import LoadingNeeds
from parquetry.workers.loading.precision import Precision
from parquetry.workers.loading.vllm_options import check_adapter, check_task
from parquetry.workers.vllm.arguments import adapters_of, engine_arguments, set_variables
from parquetry.workers.vllm.conversation import Conversation
from parquetry.workers.vllm.encodings import Encodings
from parquetry.workers.vllm.generation import Generation, PromptLimits
from parquetry.workers.vllm.vllm_engine import VllmEngine, one_line

if TYPE_CHECKING:
    from vllm import LLMEngine

#: the random numbers of a row are its own; the products of a step are rounded by the kernels that its size picks
_SAMPLING = "keyed by (seed, row, sample); rows share kernels chosen by batch size, so ties may fall either way"

#: what vLLM raises of files and options that it cannot serve, and in other words of a device that is full or away
_FAULTS_OF_THE_MODEL = (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError)
_OF_THE_DEVICE = re.compile(r"CUDA|NCCL|cuBLAS|CUBLAS|memory")


def load_vllm(spec: EngineSpec) -> VllmEngine:
    """The engine of a spec with backend vllm.

    Raises MissingPackageError outside vLLM's own environment, UnsupportedOptionError and the like for options that it
    cannot follow, UnusableModelError with vLLM's own reason for a model that it does not load.
    """
    set_variables()
    _require_vllm()
    checkpoint = Checkpoint.resolve(spec.model)
    needs = LoadingNeeds(spec.model, checkpoint)
    needs.check()
    check_task(spec.task, spec.model)
    for adapter in adapters_of(spec).values():
        check_adapter(adapter, checkpoint)
    precision = needs.precision("cpu" if spec.device.startswith("cpu") else "cuda")
    engine = _load(spec, checkpoint, precision.dtype)
    about = _about(spec, precision)
    if spec.task == "generate":
        return VllmEngine(engine, _generation(spec, checkpoint, engine), about)
    vectors = Vectors.of(spec, checkpoint)
    facts = vectors.facts(_width(spec, checkpoint))
    # vLLM's pooler goes through the folder's dense layers itself
    return VllmEngine(engine, Encodings(RowLimits.of(checkpoint), vectors.finished), {**about, **facts})


def _require_vllm() -> None:
    try:
        import vllm  # noqa: F401
    except ImportError:
        raise MissingPackageError(feature="model.backend vllm", package="vllm", install="parquetry[vllm]") from None


def _load(spec: EngineSpec, checkpoint: Checkpoint, dtype: str) -> LLMEngine:
    from vllm import EngineArgs, LLMEngine
    from vllm.usage.usage_lib import UsageContext

    arguments = engine_arguments(spec, checkpoint, dtype)
    try:
        # the defaults of vLLM's own offline class
        return LLMEngine.from_engine_args(EngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)
    except _FAULTS_OF_THE_MODEL as error:
        if _OF_THE_DEVICE.search(str(error)):
            # which may pass: an engine that ended a moment ago may hold the card still
            if isinstance(error, RuntimeError):
                raise
            raise MemoryError(one_line(error)) from error
        reason = f"vLLM {importlib.metadata.version(_package())} does not load it: {one_line(error)}"
        raise UnusableModelError(model=checkpoint.id, reason=reason) from error


def _generation(spec: EngineSpec, checkpoint: Checkpoint, engine: LLMEngine) -> Conversation:
    # of as many tokens as its memory holds, where that is less than the model's own length
    limits = PromptLimits(engine.model_config.get_vocab_size(), engine.model_config.max_model_len)
    if spec.images:
        from parquetry.workers.vllm.pictures import PictureGeneration

        return PictureGeneration(checkpoint, limits, adapters_of(spec))
    return Generation(checkpoint.eos_ids, limits, adapters_of(spec))


def _width(spec: EngineSpec, checkpoint: Checkpoint) -> int:
    """Numbers of a whole vector, or labels."""
    if spec.task != "embed":
        return checkpoint.num_labels
    return int(checkpoint.hidden_size or 0)


def _package() -> str:
    """The distribution that brings vLLM: builds for a CPU have a name of their own."""
    found = importlib.metadata.packages_distributions().get("vllm", ["vllm"])
    return found[0]


def _about(spec: EngineSpec, precision: Precision) -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    eager = spec.device.startswith("cpu") or not spec.model.compile
    return {
        "vllm": importlib.metadata.version(_package()),
        "attention": "vllm",
        "dtype": precision.dtype,
        "why_dtype": precision.reason,
        "quantization": spec.model.quantization,
        "kv_dtype": spec.model.kv_dtype,
        "device": spec.device,
        "graphs": "none" if eager else "vllm",
        **({"tensor_parallel": str(len(spec.devices))} if len(spec.devices) > 1 else {}),
        **({"sampling": _SAMPLING} if spec.task == "generate" else {}),
        **versions,
    }
