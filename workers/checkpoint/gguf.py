"""Models in one GGUF file: unpacked once into a folder of safetensors, which is then loaded like any other.

GGUF holds tensors and metadata and no code, as safetensors does. Its chat template is Jinja text, rendered in the
sandbox that renders every other one.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from parquetry.schemas.errors import UnusableModelError
from parquetry.schemas.settings import settings
from parquetry.workers.checkpoint.weights import fingerprint
from parquetry.workers.packages import require
from parquetry.workers.process.leash import leashed
from parquetry.workers.process.start import module_command

log = logging.getLogger(__name__)

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
    with _only_one(folder):
        if not folder.is_dir():
            _unpack(file, folder)
    return folder


def _content_key(file: Path) -> str:
    text = f"{_VERSION} {version('transformers')} {fingerprint([file])}"
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Wait for whoever unpacks into the folder, here or in another process of this machine."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpack(file: Path, folder: Path) -> None:
    """Convert in a process of its own, since the caller may be one that must not load torch."""
    log.info("unpacking %s to %s; this happens once", file, folder)
    aside = folder.with_suffix(".partial")
    shutil.rmtree(aside, ignore_errors=True)
    command = module_command("parquetry.workers.loading.gguf_conversion", str(file), str(aside))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(leashed(command), capture_output=True, text=True, env=environment)
    if done.returncode:
        shutil.rmtree(aside, ignore_errors=True)
        said = (done.stderr.strip() or f"the conversion ended with code {done.returncode}").splitlines()[-1][:300]
        raise UnusableModelError(model=str(file), reason=f"transformers cannot read it ({said})")
    aside.rename(folder)
