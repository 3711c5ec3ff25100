"""Input file formats: what a file's name, or where it says nothing its first bytes, tell of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Literal

#: openai-batch is JSON Lines of requests, and told by no name
Format = Literal["parquet", "jsonl", "csv", "tsv", "openai-batch"]
#: of a whole file; what Parquet compresses within itself does not count
Compression = Literal["gzip", "zstd", "bz2"]

_SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet", ".pq": "parquet", ".parq": "parquet",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv",
}  # fmt: skip
_COMPRESSIONS: dict[str, Compression] = {
    ".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2",
}  # fmt: skip
_MAGIC: dict[Compression, re.Pattern[bytes]] = {
    "gzip": re.compile(rb"\x1f\x8b"),
    # a frame, or one to be skipped
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    "bz2": re.compile(rb"BZh[1-9]1AY"),
}
_PARQUET_MAGIC = b"PAR1"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: bytes from a file's beginning that `kind_of_content` is given
HEAD_BYTES = 64 << 10
#: what an input may be called, for messages
NAMES = ".parquet, .pq, .jsonl, .ndjson, .json, .csv and .tsv, the text ones also as .gz, .zst or .bz2"


@dataclass(frozen=True)
class FileKind:
    """How a file is read."""

    format: Format
    compression: Compression | None = None


def kind_of_name(name: str) -> FileKind | None:
    """The kind a name promises, in any case of letters; None where only the content can tell.

    A suffix of compression behind .parquet promises nothing: pandas' `.parquet.gzip` is compressed within.
    """
    stem, compression = _without_compression(name.lower())
    found = next((kind for suffix, kind in _SUFFIXES.items() if stem.endswith(suffix)), None)
    if found is None or (found == "parquet" and compression is not None):
        return None
    return FileKind(found, compression)


def may_be_input(name: str) -> bool:
    """Whether a file with no kind by name is worth a look: it has no suffix, or is .json or a compressed Parquet."""
    stem, _ = _without_compression(name.lower().rpartition("/")[2])
    return "." not in stem or stem.endswith((".json", ".parquet", ".pq", ".parq"))


def suffix_of(name: str) -> str:
    """What stands behind the last dot of a name, dot included, or "no suffix"."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return f".{suffix}" if dot and stem else "no suffix"


def compression_of_content(head: bytes) -> Compression | None:
    """How a file is compressed that begins with these bytes."""
    return next((kind for kind, magic in _MAGIC.items() if magic.match(head)), None)


def format_of_content(head: bytes) -> Format | None:
    """Parquet, or JSON objects a line each, told from the (uncompressed) beginning of a file."""
    if head.startswith(_PARQUET_MAGIC):
        return "parquet"
    line = head.removeprefix(_BYTE_ORDER_MARK).lstrip().partition(b"\n")[0].strip()
    if not line.startswith(b"{"):
        return None
    # a longer line cannot be judged whole; pretty-printed JSON has short ones
    return "jsonl" if len(line) >= HEAD_BYTES // 2 or _is_object(line) else None


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _without_compression(name: str) -> tuple[str, Compression | None]:
    suffix = next((suffix for suffix in _COMPRESSIONS if name.endswith(suffix)), None)
    return (name, None) if suffix is None else (name[: -len(suffix)], _COMPRESSIONS[suffix])
