"""Which encoder engine serves a spec: packed in torch where the model allows it, ONNX Runtime when asked for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

from tokenizers import Tokenizer

from parquetry.schemas.errors import EngineRefusedError, UnsupportedOptionError, UnusableModelError
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.job import Task
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.cross_encoder import score_activation
from parquetry.workers.checkpoint.onnx_files import own_file
from parquetry.workers.checkpoint.score_modules import pooled_score
from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.encoding.onnx.providers import COMPILERS, PROVIDERS, provider_name
from parquetry.workers.encoding.outputs.vectors import Vectors, after_pooling, pooling_of
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from parquetry.workers.encoding.onnx.export_spec import ExportSpec

log = logging.getLogger(__name__)

#: what a graph computes in
Precision = Literal["float32", "float16", "int8"]
#: choices of model.attention that leave the kernel to us
_OUR_ATTENTION = ("auto", "sdpa", "sdpa-flash", "flash_attention_2", "triton")


def packed_encoder(
    spec: EngineSpec, checkpoint: Checkpoint, model: PreTrainedModel, about: dict[str, str]
) -> Engine | str:
    """The packed engine on a loaded model, or why it cannot serve it; the model is then as it was.

    Raises UnusableModelError when it was tried and computes something else.
    """
    from parquetry.workers.encoding.packed.layer_check import LayersDifferError
    from parquetry.workers.encoding.torch_packed import EncodeTask, PackedEncoder, unsupported_reason

    if spec.model.attention not in _OUR_ATTENTION:
        return f"it has no attention {spec.model.attention}"
    reason = unsupported_reason(model)
    if reason is not None:
        return reason
    task = EncodeTask(
        task=spec.task,
        pooling=pooling_of(spec, checkpoint),
        **after_pooling(spec, checkpoint),
        normalize=spec.normalize and spec.task == "embed",
        scores_vectors=pooled_score(checkpoint, spec.task) is not None,
        per_token=spec.task == "classify" and checkpoint.is_token_classifier,
        activation=score_activation(checkpoint) if spec.task == "score" else None,
    )
    try:
        return PackedEncoder(
            model,
            task,
            token_budget=spec.token_budget,
            max_tokens=checkpoint.context_window,
            # quantized products neither fuse nor capture
            compile=spec.model.compile and spec.model.quantization == "none",
            tokenizer=Tokenizer.from_file(str(checkpoint.tokenizer_folder / "tokenizer.json")),
            about=about,
        )
    except LayersDifferError as error:
        # its family packs: whoever counts on that must decide anew, and its layers may be changed by now
        reason = f"{error.fields['reason']}; if it may be slower, set model.backend to transformers"
        raise UnusableModelError(model=checkpoint.id, reason=reason) from error
    except EngineRefusedError as error:
        return str(error)


def onnx_encoder(spec: EngineSpec, checkpoint: Checkpoint, about: dict[str, str]) -> Engine:
    """ONNX Runtime on the checkpoint's own ONNX file, or on our export of it.

    Raises UnsupportedOptionError for a provider that the installed runtime lacks, or options it cannot follow.
    """
    from parquetry.workers.encoding.onnx.export import exported
    from parquetry.workers.encoding.onnx.model_file import is_ours
    from parquetry.workers.encoding.onnx.ort_padded import OrtPaddedEncoder

    require_one_graph(checkpoint, spec.task)
    provider = provider_name(settings().onnx_provider, spec.device)
    own = own_file(checkpoint.folder, spec.model.file)
    if own is not None and not checkpoint.weight_files and spec.model.quantization != "none":
        reason = "its folder holds an ONNX file and no safetensors; name a quantized file in model.file instead"
        raise UnsupportedOptionError(option=f"model.quantization {spec.model.quantization}", reason=reason)
    if own is not None and not is_ours(own) and spec.model.quantization == "none":
        return OrtPaddedEncoder(
            own,
            _options(spec, checkpoint, provider, "float32"),
            {**about, "file": own.relative_to(checkpoint.folder).as_posix()},
        )
    if provider == PROVIDERS["cuda"] and spec.device != "cpu" and spec.model.quantization == "none":
        packed = _packed_onnx(spec, checkpoint, about)
        if packed is not None:
            return packed
    export = _padded_export(spec, checkpoint, provider)
    precision: Precision = export.dtype
    if export.quantization == "int8":
        precision, about = "int8", {**about, "int8_weights": f"{export.weight_bits} bits"}
    return OrtPaddedEncoder(exported(checkpoint, export), _options(spec, checkpoint, provider, precision), about)


def require_one_graph(checkpoint: Checkpoint, task: Task) -> None:
    """Raise UnsupportedOptionError for scores that layers beside the model make of its vectors."""
    if pooled_score(checkpoint, task) is not None:
        reason = "layers beside the model make its scores (modules.json), which its ONNX graph has not"
        raise UnsupportedOptionError(option="an ONNX back end with this model", reason=reason)


def _packed_onnx(spec: EngineSpec, checkpoint: Checkpoint, about: dict[str, str]) -> Engine | None:
    from parquetry.workers.encoding.onnx.export import exported
    from parquetry.workers.encoding.onnx.export_spec import ExportSpec
    from parquetry.workers.encoding.onnx.ort_packed import OrtPackedEncoder

    try:
        export = ExportSpec(task=spec.task, form="packed", dtype="float16", pooling=pooling_of(spec, checkpoint))
        path = exported(checkpoint, export)
        options = _options(spec, checkpoint, PROVIDERS["cuda"], "float16")
        return OrtPackedEncoder(path, options, spec.device, about)
    except (UnsupportedOptionError, EngineRefusedError) as error:
        log.warning("this model runs padded in ONNX Runtime: %s", error)
        return None


def _padded_export(spec: EngineSpec, checkpoint: Checkpoint, provider: str) -> ExportSpec:
    from parquetry.workers.encoding.onnx.export_spec import ExportSpec

    quantization = spec.model.quantization
    if quantization not in ("none", "int8"):
        reason = "ONNX Runtime has int8; nf4, fp4 and fp8 are of the torch back ends"
        raise UnsupportedOptionError(option=f"model.quantization {quantization}", reason=reason)
    if quantization == "int8" and provider != PROVIDERS["cpu"]:
        reason = "its 8-bit products are kernels of the CPU, so on a GPU each would be a round trip to the host"
        remedy = "leave model.quantization out for float16, or set PARQUETRY_ONNX_PROVIDER=cpu"
        raise UnsupportedOptionError(option=f"model.quantization int8 on {provider}", reason=f"{reason}; {remedy}")
    is_half = quantization == "none" and provider != PROVIDERS["cpu"]
    return ExportSpec(
        task=spec.task,
        form="padded",
        dtype="float16" if is_half else "float32",
        pooling=pooling_of(spec, checkpoint),
        quantization=quantization,
        attention="plain" if provider in COMPILERS else "fused",
    )


def _options(spec: EngineSpec, checkpoint: Checkpoint, provider: str, precision: Precision) -> Any:
    from parquetry.workers.encoding.onnx.ort_padded import OrtOptions

    return OrtOptions(
        limits=RowLimits.of(checkpoint),
        vectors=Vectors.of(spec, checkpoint),
        provider=provider,
        pad_id=checkpoint.pad_id,
        token_budget=spec.token_budget,
        precision=precision,
    )
