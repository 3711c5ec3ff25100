"""T16: machines whose clocks are ten minutes off, one of which jumps in the middle of the job."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.arena import Arena
from tests.chaos.process import ROOT
from tests.chaos.report import Outcome

SHARD_ROWS = 20
OFF_S = 600.0


def run(profile: str, seed: int, folder: Path) -> list[Outcome]:
    with Arena(folder, ms_per_row=10.0) as arena:
        job = arena.job(150 * SHARD_ROWS, SHARD_ROWS)
        ahead, behind = _clock(folder, "ahead", OFF_S), _clock(folder, "behind", -OFF_S)
        for clock in (ahead, behind):
            path = str(ROOT / "tests" / "chaos" / "wrong_clock")
            arena.start_worker(CHAOS_CLOCK=str(clock), PYTHONPATH=path)
        job.wait_for_commits(40)
        ahead.write_text(str(-OFF_S))
        job.wait_for_commits(80)
        ahead.write_text(str(OFF_S))
        job.wait_for_end()
        outcome = Outcome(fault="T16 clocks 10 min off, one jumps", injected=4, recomputed=job.recomputed(SHARD_ROWS))
        outcome.require(outcome.recomputed == 0, f"{outcome.recomputed} shards recomputed")
        job.judge(outcome)
        return [outcome]


def _clock(folder: Path, name: str, off_s: float) -> Path:
    file = folder / f"clock-{name}"
    file.write_text(str(off_s))
    return file
