"""Which shards were in flight whenever an engine of a device raised an error that would be raised again."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Collection

#: faults that are remembered of a job and a reason
MAX_FAULTS = 32
#: what differs between two errors for one reason
_NUMBERS = re.compile(r"\d+")


class FaultLog:
    """Kept by the supervisor, who sees every death of an engine and all who used it."""

    def __init__(self) -> None:
        self._faults: defaultdict[tuple[str, str], deque[list[int]]] = defaultdict(lambda: deque(maxlen=MAX_FAULTS))

    def note(self, reason: str, users: Collection[str]) -> list[list[int]]:
        """The shards in flight at each fault of this reason, this one last; `users` are "job/shard".

        Empty where several jobs, or nobody with a name, used the engine: the rows of one may be what killed the others.
        """
        pairs = [user.rpartition("/") for user in users]
        jobs = {job for job, _, _ in pairs}
        if len(jobs) != 1 or "" in jobs:
            return []
        faults = self._faults[jobs.pop(), kind_of(reason)]
        faults.append(sorted(int(shard) for _, _, shard in pairs))
        return list(faults)


def kind_of(reason: str) -> str:
    """The reason without its numbers: sizes and indices differ from row to row."""
    return _NUMBERS.sub("#", reason)
