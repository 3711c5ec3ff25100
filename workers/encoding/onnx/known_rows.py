"""Rows with known answers that travel with an exported file, so that every machine can check what it computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parquetry.schemas.errors import EngineRefusedError
from parquetry.workers.request import EncodeRequest

FILE_NAME = "known_rows.npz"
#: largest relative error of the values; int8 is checked for being sane, its accuracy is measured elsewhere
TOLERANCE = {"float32": 2e-3, "float16": 3e-2, "int8": 0.5}


@dataclass(frozen=True, eq=False)
class KnownRows:
    """A few rows, and (num_rows, dim) float32 that the torch model makes of them."""

    requests: list[EncodeRequest]
    values: np.ndarray

    def save(self, folder: Path) -> None:
        lens = [len(request.token_ids) for request in self.requests]
        tokens = np.concatenate([request.token_ids for request in self.requests])
        np.savez(folder / FILE_NAME, lens=lens, tokens=tokens, values=self.values)

    @classmethod
    def load(cls, folder: Path) -> KnownRows | None:
        """None for files that we did not export."""
        if not (folder / FILE_NAME).is_file():
            return None
        with np.load(folder / FILE_NAME, allow_pickle=False) as stored:
            rows = np.split(stored["tokens"], np.cumsum(stored["lens"])[:-1])
            requests = [EncodeRequest(id=index, token_ids=row) for index, row in enumerate(rows)]
            return cls(requests, stored["values"])

    def check(self, found: np.ndarray, precision: str) -> None:
        """Raises EngineRefusedError when values of the same rows are further off than the precision explains."""
        error = float(np.linalg.norm(found - self.values) / np.linalg.norm(self.values))
        # written so that NaN fails
        if not error <= TOLERANCE[precision]:
            reason = f"the exported model's answers differ from its torch model's by {error:.1e} (relative)"
            raise EngineRefusedError(reason=reason)
