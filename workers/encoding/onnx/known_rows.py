"""Rows with known answers that travel with an exported file, so that every machine can check what it computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parquetry.schemas.errors import EngineRefusedError
from parquetry.workers.request import EncodeRequest

FILE_NAME = "known_rows.npz"
#: how many times its noise a value may be off: right files reach 0.9 in float16, 1.3 in float32 and 2 in int8
LIMIT = 4.0


@dataclass(frozen=True, eq=False)
class KnownRows:
    """A few rows of ordinary text, and what is made of them."""

    requests: list[EncodeRequest]
    #: (num_values, dim) float32 that the torch model gives: a row of text or a token each
    values: np.ndarray
    #: (num_values,) float32, how far the precision of the file alone moves that model's values
    noise: np.ndarray

    def save(self, folder: Path) -> None:
        lens = [len(request.token_ids) for request in self.requests]
        tokens = np.concatenate([request.token_ids for request in self.requests])
        np.savez(folder / FILE_NAME, lens=lens, tokens=tokens, values=self.values, noise=self.noise)

    @classmethod
    def load(cls, folder: Path) -> KnownRows | None:
        """None for files that we did not export."""
        if not (folder / FILE_NAME).is_file():
            return None
        with np.load(folder / FILE_NAME, allow_pickle=False) as stored:
            rows = np.split(stored["tokens"], np.cumsum(stored["lens"])[:-1])
            requests = [EncodeRequest(id=index, token_ids=row) for index, row in enumerate(rows)]
            return cls(requests, stored["values"], stored["noise"])

    def check(self, found: np.ndarray) -> None:
        """Raises EngineRefusedError when values (num_values, dim) of the same rows are further off than rounding is."""
        error = float((np.linalg.norm(found - self.values, axis=1) / self.noise).max())
        # written so that NaN fails
        if not error <= LIMIT:
            reason = f"the exported model's answers are off its torch model's by {error:.3g} times what its precision "
            raise EngineRefusedError(reason=f"{reason}costs, where {LIMIT:g} is allowed")
