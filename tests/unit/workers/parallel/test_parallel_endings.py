"""Which rank is blamed, and for what, when several have ended."""

from __future__ import annotations

import os
import queue
from pathlib import Path

import pytest

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.parallel.ranks import Ranks


@pytest.mark.parametrize(
    ("endings", "reason", "permanent"),
    [
        ("told", "rank 1 (cpu): the failure of 1", True),
        ("killed", "rank 1 (cpu) was killed by SIGKILL", False),
        # threads may abort at the end of a process that has said why it ends
        ("told and killed", "rank 1 (cpu): the failure of 1", True),
        # the one that was killed is why the other failed
        ("told late,killed", "rank 2 (cpu) was killed by SIGKILL", False),
        ("silent,alive", "rank 1 (cpu) ended with code 0", False),
    ],
)
def test_what_a_rank_said_comes_before_the_signal_that_ended_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endings: str, reason: str, permanent: bool
) -> None:
    monkeypatch.setenv("PARQUETRY_TEST_ENDINGS", endings)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setattr("parquetry.workers.parallel.ranks.MODULE", "ending_rank")
    size = endings.count(",") + 2
    spec = EngineSpec(
        task="generate", model_path="none", model=ModelSpec(id="none"), device=f"cpu:{','.join('0' * size)}"
    )
    told: queue.Queue[tuple[str, bool]] = queue.Queue()
    ranks = Ranks(spec, tmp_path / "store", lambda *problem: told.put(problem))
    try:
        found, is_permanent = told.get(timeout=30)
    finally:
        ranks.dismiss()
    assert (found, is_permanent) == (reason, permanent)
