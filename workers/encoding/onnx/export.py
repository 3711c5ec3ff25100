"""A checkpoint as an ONNX file: exported once, checked against the model it came from, and kept by content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parquetry.schemas.errors import MissingPackageError
from parquetry.schemas.settings import settings
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.onnx_files import own_file
from parquetry.workers.encoding.onnx.export_spec import ExportSpec
from parquetry.workers.encoding.onnx.model_file import FACTS_NAME, is_ours

log = logging.getLogger(__name__)

FILE_NAME = "model.onnx"


def export(model_path: str | Path, target: str | Path, spec: ExportSpec) -> Path:
    """Export the checkpoint in folder `model_path` into folder `target`; returns the ONNX file.

    The file's answers on a few rows are compared with the model's before it is given its name. Raises
    UnsupportedOptionError when the model cannot take the spec's form, MissingPackageError without onnxscript.
    """
    _require_packages()
    from parquetry.workers.encoding.onnx.exporting import write_export

    folder = Path(target)
    with _made_aside(folder) as aside:
        write_export(Path(model_path), aside / FILE_NAME, spec)
    return folder / FILE_NAME


def exported(checkpoint: Checkpoint, spec: ExportSpec) -> Path:
    """The ONNX file of a checkpoint: its own folder's, or the state folder's, exported first when it is in neither."""
    beside = own_file(checkpoint.folder)
    if beside is not None and is_ours(beside) and _is_of(beside, checkpoint, spec):
        return beside
    folder = settings().state_dir / "onnx" / content_key(checkpoint, spec)
    if not (folder / FILE_NAME).is_file():
        log.info("exporting %s to ONNX (%s %s); this happens once", checkpoint.id, spec.form, spec.dtype)
        export(checkpoint.folder, folder, spec)
    return folder / FILE_NAME


def content_key(checkpoint: Checkpoint, spec: ExportSpec) -> str:
    """24 hex digits that change with the weights, the config, the spec and what exports."""
    import torch
    import transformers

    made_by = [torch.__version__, transformers.__version__]
    parts = [checkpoint.weights_fingerprint, checkpoint.config, spec.graph(), made_by]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _is_of(file: Path, checkpoint: Checkpoint, spec: ExportSpec) -> bool:
    """Whether an export beside the weights was made from these weights, for this spec."""
    facts = export_facts(file)
    return (facts.get("graph"), facts.get("weights")) == (spec.graph(), checkpoint.weights_fingerprint)


@contextmanager
def _made_aside(folder: Path) -> Iterator[Path]:
    """A folder that becomes `folder` in one step when all went well; whoever comes first wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield aside
        try:
            os.replace(aside, folder)
        except OSError:
            # an export of the same content was there first, or the user named a folder in use
            if not (folder / FILE_NAME).is_file():
                for file in aside.iterdir():
                    shutil.move(file, folder / file.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _require_packages() -> None:
    for package in ("torch", "onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError:
            raise MissingPackageError(feature="ONNX export", package=package, install="parquetry[torch,onnx]") from None


def export_facts(file: Path) -> dict[str, Any]:
    """What `export` wrote beside the file: spec, versions, inputs."""
    return json.loads((file.parent / FACTS_NAME).read_text(encoding="utf-8"))
