"""Models from the Hugging Face hub, or from its cache on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from parquetry.schemas.errors import ModelNotFoundError
from parquetry.schemas.spec.job import ModelSpec

_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?$")
#: what the back ends for ONNX files use beside it
_ONNX_FILES = ["*.onnx", "*.onnx_data", "*.onnx.data", "onnx/*"]
#: what we use, and nothing executable
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.spm", "*.txt", "*.tiktoken", "*/config.json"]


def download(model: ModelSpec) -> tuple[Path, str, str]:
    """Folder, name and commit of `name`, `org/name` or `org/name@commit`. Raises ModelNotFoundError."""
    if not _ID.match(model.id):
        raise ModelNotFoundError(model=model.id, reason="there is no such folder")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        reason = "there is no such folder, and huggingface_hub is not installed to look for it on the hub"
        raise ModelNotFoundError(model=model.id, reason=reason) from None
    name, _, commit = model.id.partition("@")
    wanted = [*_FILES, *(_ONNX_FILES if model.backend in ("onnxruntime", "optimum") else [])]
    try:
        folder = Path(snapshot_download(name, revision=commit or model.revision, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = f"there is no such folder, and the hub did not give it ({_first_line(error)})"
        raise ModelNotFoundError(model=model.id, reason=reason) from None
    return folder, name, commit or folder.name


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
