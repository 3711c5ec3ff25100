"""Folders made of files that we don't read ourselves: once on a machine, by transformers, in a process of its own."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parquetry.schemas.errors import UnusableModelError
from parquetry.workers.process.leash import leashed
from parquetry.workers.process.start import module_command

log = logging.getLogger(__name__)


def converted(source: Path, folder: Path, module: str, *, model: str) -> Path:
    """`folder`, made by `python -m module source folder` when it is the first time.

    Raises UnusableModelError with the last line of what the process said, when it fails.
    """
    with _only_one(folder):
        if not folder.is_dir():
            _convert(source, folder, module, model)
    return folder


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Wait for whoever converts into the folder, here or in another process of this machine."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _convert(source: Path, folder: Path, module: str, model: str) -> None:
    # in a process of its own, since the caller may be one that must not load torch
    log.info("converting %s to %s; this happens once", source, folder)
    aside = folder.with_suffix(".partial")
    shutil.rmtree(aside, ignore_errors=True)
    command = module_command(module, str(source), str(aside))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(leashed(command), capture_output=True, text=True, env=environment)
    if done.returncode:
        shutil.rmtree(aside, ignore_errors=True)
        said = (done.stderr.strip() or f"the conversion ended with code {done.returncode}").splitlines()[-1][:300]
        raise UnusableModelError(model=model, reason=f"transformers cannot read it ({said})")
    aside.rename(folder)
