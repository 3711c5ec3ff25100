"""Models in one GGUF file: unpacked once into a folder of safetensors, which is then loaded like any other.

GGUF holds tensors and metadata and no code, as safetensors does. Its chat template is Jinja text, rendered in the
sandbox that renders every other one.
"""

from __future__ import annotations

import hashlib
import re
from importlib.metadata import version
from pathlib import Path

from parquetry.schemas.errors import UnusableModelError
from parquetry.schemas.settings import settings
from parquetry.workers.checkpoint.conversion import converted
from parquetry.workers.checkpoint.weights import fingerprint
from parquetry.workers.packages import require

#: raised whenever an unpacked folder of the same file would come out differently
_VERSION = 1
_PIECE = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


def gguf_file(path: Path) -> Path | None:
    """The file that `path` is, or that a folder without safetensors holds. Raises UnusableModelError for several."""
    if path.is_file():
        return path.resolve() if path.suffix == ".gguf" else None
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    found = sorted(path.resolve().glob("*.gguf"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:5])
        raise UnusableModelError(model=str(path), reason=f"it holds several GGUF files; name one of them: {names}")
    return found[0] if found else None


def unpacked(file: Path) -> Path:
    """The folder of config, tokenizer and safetensors made of a GGUF file; made here when it is the first time.

    Raises MissingPackageError, and UnusableModelError when transformers cannot read the file.
    """
    if _PIECE.search(file.name):
        reason = "it is one of several pieces; join them first, with llama-gguf-split --merge"
        raise UnusableModelError(model=str(file), reason=reason)
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise UnusableModelError(model=str(file), reason="it does not begin as GGUF files do")
    for module in ("gguf", "torch", "transformers"):
        require(module, feature="A GGUF model")
    folder = settings().state_dir / "gguf" / _content_key(file)
    return converted(file, folder, "parquetry.workers.loading.conversion.gguf_conversion", model=str(file))


def _content_key(file: Path) -> str:
    text = f"{_VERSION} {version('transformers')} {fingerprint([file])}"
    return hashlib.sha256(text.encode()).hexdigest()[:24]
