"""What goes wrong on the way to an NFS server: answers that get lost, handles that go stale, data that do not fit.

`before`: nothing is done. `after`: it is done, and the answer is lost: the request is sent again and finds its own
work (EEXIST, ENOENT), or a soft mount gives up (EIO). `lose`: what was written last has not reached the disk.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from errno import EDQUOT, EEXIST, EIO, ENOENT, ENOSPC, ESTALE
from pathlib import Path

FAULTS: dict[str, list[tuple[str, int]]] = {
    "lookup": [("before", EIO), ("before", ESTALE)],
    "getattr": [("before", EIO), ("before", ESTALE)],
    "open": [("before", EIO), ("before", ESTALE)],
    "read": [("before", EIO), ("before", ESTALE)],
    "readdir": [("before", EIO), ("before", ESTALE)],
    "create": [("before", ENOSPC), ("before", EDQUOT), ("after", EIO), ("after", EEXIST)],
    "write": [("before", ENOSPC), ("before", EDQUOT), ("before", EIO)],
    "fsync": [("lose", EIO), ("lose", ENOSPC)],
    "flush": [("lose", ENOSPC), ("lose", EDQUOT), ("lose", EIO)],
    "link": [("after", EEXIST), ("after", EEXIST), ("after", EIO), ("before", ENOSPC)],
    "rename": [("after", ENOENT), ("after", ENOENT), ("after", EIO)],
    "unlink": [("after", ENOENT), ("after", EIO)],
    "mkdir": [("after", EEXIST), ("before", ENOSPC)],
    "rmdir": [("after", ENOENT)],
    "fsyncdir": [("before", EIO)],
}
#: those that come once or twice in a shard: they strike more often, or hardly ever
RARE = ("link", "rename", "fsync", "flush", "mkdir")


#: what a disk without room, or a user without quota, answers
FULL = {name: [(when, ENOSPC), (when, EDQUOT)] for name, when in (("create", "before"), ("write", "before"))}
FULL |= {name: [("lose", ENOSPC), ("lose", EDQUOT)] for name in ("flush", "fsync")}


class Weather:
    """Draws faults for the folders of the export that have a file of their name in `stormy`; each adds to `count`.

    That file says "lossy", "full" where there is no room at all, or one fault that strikes always: "link after 17".
    """

    def __init__(self, seed: int, chance: float, stormy: Path, count: Path) -> None:
        self._random, self._chance, self._stormy, self._count = random.Random(seed), chance, stormy, count

    def around(self, operation: str, path: str, act: Callable[[], bytes], lose: Callable[[], None]) -> bytes:
        """What `act` gives, unless a fault strikes: then an OSError."""
        fault = self._draw(operation, path)
        if fault is None:
            return act()
        when, number = fault
        if when == "after":
            act()
        elif when == "lose":
            lose()
        with self._count.open("a") as file:
            file.write(f"{operation} {when} {number} {path}\n")
        raise OSError(number, operation)

    def _draw(self, operation: str, path: str) -> tuple[str, int] | None:
        try:
            said = (self._stormy / path.partition("/")[0]).read_text()
        except OSError:
            return None
        if " " in said:
            name, when, number = said.split()
            return (when, int(number)) if name == operation else None
        faults = (FULL if said == "full" else FAULTS).get(operation, [])
        chance = 1.0 if said == "full" else self._chance * (5 if operation in RARE else 1)
        return self._random.choice(faults) if faults and self._random.random() < chance else None
