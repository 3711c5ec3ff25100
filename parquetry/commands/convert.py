"""export."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from parquetry.schemas.errors import BadInputError, UnsupportedOptionError

if TYPE_CHECKING:
    from parquetry.workers.checkpoint.checkpoint import Checkpoint

PANEL = "Prepare a model"
EncoderTask = Literal["classify", "score", "embed"]
Dtype = Literal["float32", "float16", "fp16", "int8"]


class ExportTargetError(BadInputError):
    """The folder {path} cannot take the export: {reason}."""


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel=PANEL)(export)


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's folder, or its id on the hub.")],
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="Where model.onnx goes; in the model's own folder, jobs find it.")
    ],
    task: Annotated[EncoderTask | None, typer.Option(help="By default what the model was made for.")] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(help="float32, or int8 (8-bit products), for CPUs; float16 (fp16) for GPUs.")
    ] = None,
    packed: Annotated[bool, typer.Option("--packed", help="Rows end to end in float16, for CUDA.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="ONNX's own operators alone, for TensorRT and MIGraphX.")
    ] = False,
) -> None:
    """Export a classifier or an embedder to ONNX ahead of a job with model.backend onnxruntime."""
    _check_target(target)
    from parquetry.schemas.spec.job import ModelSpec
    from parquetry.workers.checkpoint.checkpoint import Checkpoint
    from parquetry.workers.encoding.onnx.export import export as write
    from parquetry.workers.encoding.onnx.export_spec import ExportSpec

    checkpoint = Checkpoint.resolve(ModelSpec(id=model))
    attention: Literal["plain", "fused"] = "plain" if plain else "fused"
    spec = ExportSpec(**_precision(dtype, packed), attention=attention, **_purpose(checkpoint, task))
    # libraries warn of what an export does not need; whatever matters is an error
    logging.disable(logging.WARNING)
    try:
        print(f"Wrote {write(checkpoint.folder, target, spec)}")
    except OSError as error:
        raise ExportTargetError(path=target, reason=error.strerror or str(error)) from None


def _check_target(target: Path) -> None:
    """Raises ExportTargetError where an export would be lost, or would replace another."""
    if target.exists() and not target.is_dir():
        raise ExportTargetError(path=target, reason="it is a file; name a folder")
    if (target / "model.onnx").exists():
        raise ExportTargetError(path=target, reason="it holds a model.onnx already; name another folder, or remove it")


def _precision(dtype: Dtype | None, packed: bool) -> dict[str, Any]:
    """Form, dtype and quantization of the export; packed is float16 unless something else is asked for."""
    chosen = dtype or ("float16" if packed else "float32")
    form = "packed" if packed else "padded"
    if chosen == "int8":
        return {"form": form, "quantization": "int8"}
    return {"form": form, "dtype": "float16" if chosen == "fp16" else chosen}


def _purpose(checkpoint: Checkpoint, task: EncoderTask | None) -> dict[str, Any]:
    """Task and pooling of the export. Raises UnsupportedOptionError when the model has no head for the task."""
    is_classifier = "SequenceClassification" in checkpoint.architecture or checkpoint.is_token_classifier
    task = task or ("classify" if is_classifier else "embed")
    if task == "embed":
        return {"task": task, "pooling": checkpoint.pooling.mode if checkpoint.pooling else "mean"}
    if not is_classifier:
        reason = f"the model is a {checkpoint.architecture or 'bare encoder'}, without a classification head"
        raise UnsupportedOptionError(option=f"--task {task}", reason=reason)
    return {"task": task}
