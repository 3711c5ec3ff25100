"""The engine that rank 0 shows to its clients."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from parquetry.workers.engine import Engine
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.parallel.ranks import Ranks
from parquetry.workers.request import Request, Result


class LeadingEngine(Engine):
    """A packed engine whose steps are taken by several ranks; the schedule is made here alone."""

    def __init__(self, engine: PackedEngine, ranks: Ranks) -> None:
        self.engine = engine
        self.ranks = ranks

    def add(self, requests: Sequence[Request]) -> None:
        self.engine.add(requests)

    def step(self) -> list[Result]:
        try:
            return self.engine.step()
        except (RuntimeError, OSError):
            # when another rank died, this one fails too, and says less
            self.ranks.settle()
            raise

    def cancel(self, ids: Collection[int]) -> None:
        self.engine.cancel(ids)

    @property
    def num_unfinished(self) -> int:
        return self.engine.num_unfinished

    def describe(self) -> dict[str, str]:
        return self.engine.describe()

    def stats(self) -> dict[str, float]:
        return self.engine.stats()

    def check_integrity(self) -> None:
        """As the packed engine's."""
        self.engine.check_integrity()

    def close(self) -> None:
        """End the other ranks and free the cache."""
        self.ranks.dismiss()
        self.engine.close()
        self.engine.runner.forward.group.leave()
