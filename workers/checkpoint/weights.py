"""Identity of safetensors weights without reading all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

_BLOCK_BYTES = 64 * 1024
_BLOCKS = 128


def fingerprint(files: Sequence[Path]) -> str:
    """Hex digest over names, sizes, headers and evenly spread blocks of the files.

    A file of up to 8 MiB is read whole; of a larger one 128 blocks of 64 KiB are. The header lies at the start and so
    is among them. Training moves every tensor, so blocks tell two fine-tunes of one model apart.
    """
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        for block in _blocks(file, size):
            digest.update(block)
    return digest.hexdigest()


def _blocks(file: Path, size: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        if size <= _BLOCK_BYTES * _BLOCKS:
            yield stream.read()
            return
        for number in range(_BLOCKS):
            stream.seek(number * (size - _BLOCK_BYTES) // (_BLOCKS - 1))
            yield stream.read(_BLOCK_BYTES)
