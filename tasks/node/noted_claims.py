"""Claims noted on disk by the processes that run them, so that their node learns of those whose process has died.

A note is locked as long as its writer lives; the kernel lets go of the lock however the process ends.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from parquetry.tasks.ledger.claim import Claim


@contextmanager
def noted(folder: Path, claim: Claim) -> Iterator[None]:
    """Keep a note of the claim in `folder` while the context lasts."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{claim.job}.{claim.shard}.{claim.fence}"
    with file.open("w") as note:
        # the lock first: a note that can be read and locked by another is a dead process's
        fcntl.flock(note, fcntl.LOCK_EX)
        note.write(json.dumps(asdict(claim)))
        note.flush()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def orphans(folder: Path) -> list[tuple[Path, Claim]]:
    """Notes whose writers have died. Whoever has dealt with one removes it."""
    found = ((file, _orphan(file)) for file in folder.glob("*"))
    return [(file, claim) for file, claim in found if claim is not None]


def _orphan(file: Path) -> Claim | None:
    # gone meanwhile, or locked
    with suppress(OSError), file.open() as note:
        fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
        text = note.read()
        return Claim(**json.loads(text)) if text else None
    return None
