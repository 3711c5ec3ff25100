"""Rows to requests: what each task makes of a batch of input rows before an engine sees them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import pyarrow as pa

from parquetry.schemas.errors import RowError
from parquetry.workers.preparation.tokenization import Tokens
from parquetry.workers.request import Request


class Preparation(ABC):
    """Turns input rows into token ids, and token ids into requests."""

    #: requests made of one row, at most
    num_samples = 1
    #: rows prepared at once; None takes them as they are read
    rows_at_once: int | None = None

    @abstractmethod
    def tokens(self, batch: pa.RecordBatch) -> list[Tokens | RowError]:
        """Token ids of each row, or what is wrong with it."""

    def complete(self, prepared: list[Tokens | RowError]) -> list[Tokens | RowError]:
        """The same rows, with images and the like fetched. May block. Raises StorageError."""
        return prepared

    def samples(self, tokens: Tokens) -> int:
        """Requests made of this row."""
        return self.num_samples

    @abstractmethod
    def request(self, id: int, tokens: Tokens, row: int, sample: int) -> Request:
        """One request of a row."""


def require_good(row: dict[str, Any]) -> None:
    """Raise the first RowError among the cells of a row."""
    bad = next((value for value in row.values() if isinstance(value, RowError)), None)
    if bad is not None:
        raise bad


def require_tokens(tokens: Tokens | RowError) -> Tokens | RowError:
    """The tokens, or a RowError where there are none."""
    if isinstance(tokens, Tokens) and not len(tokens.ids):
        return RowError(reason="the text is empty, and the model's tokenizer makes no token of it")
    return tokens
