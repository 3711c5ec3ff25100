"""The oldest logs go when all together are too large."""

from __future__ import annotations

import os
import time
from pathlib import Path

from parquetry.local.old_logs import prune


def test_the_oldest_go_and_fresh_ones_stay(tmp_path: Path) -> None:
    for hours, name in enumerate(("now", "new", "old", "oldest")):
        (tmp_path / f"{name}.log").write_bytes(bytes(100))
        then = time.time() - 2 * hours * 3600
        os.utime(tmp_path / f"{name}.log", (then, then))
    prune(tmp_path, 250)
    assert {path.stem for path in tmp_path.iterdir()} == {"now", "new"}
    prune(tmp_path, 50)
    assert {path.stem for path in tmp_path.iterdir()} == {"now"}


def test_a_folder_that_is_not_there_is_no_fault(tmp_path: Path) -> None:
    prune(tmp_path / "nothing")
