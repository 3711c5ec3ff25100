"""What is known of a file of requests beside its rows: whose custom_id is whose, and which urls it asks for."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from parquetry.schemas.spec.batch_format import CUSTOM_ID, URL
from parquetry.workers.reading.text_rows import TextRow

_DIGEST_BYTES = 16


@dataclass
class BatchFacts:
    """Of every row in order; a row without a custom_id has the digest of its number, which is nobody else's."""

    digests: bytearray = field(default_factory=bytearray)
    #: lines by the url that they ask for
    urls: Counter[str] = field(default_factory=Counter)
    #: the first line that asks for each
    first_lines: dict[str, int] = field(default_factory=dict)

    def add(self, rows: Sequence[TextRow]) -> None:
        """Take note of the next rows."""
        for row in rows:
            values = row.values or {}
            self.digests += _digest(values.get(CUSTOM_ID) or row)
            if URL in values:
                self.urls[values[URL]] += 1
                self.first_lines.setdefault(values[URL], row.line)


def _digest(key: object) -> bytes:
    text = key if isinstance(key, str) else repr(key)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()


def repeated(files: Sequence[BatchFacts]) -> list[list[int]]:
    """Rows of each file whose custom_id a row before them has, in their file or in an earlier one."""
    digests = np.frombuffer(b"".join(bytes(file.digests) for file in files), dtype=f"V{_DIGEST_BYTES}")
    _, first = np.unique(digests, return_index=True)
    is_again = np.ones(len(digests), bool)
    is_again[first] = False
    ends = np.cumsum([len(file.digests) // _DIGEST_BYTES for file in files])
    return [np.flatnonzero(rows).tolist() for rows in np.split(is_again, ends[:-1])]
