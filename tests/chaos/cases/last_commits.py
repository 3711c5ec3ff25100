"""T13: the last two shards of a job are committed at the same instant, again and again."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.chaos.arena import ENV, Arena
from tests.chaos.report import Outcome

ROUNDS = {"short": 300, "long": 1000}
FINALIZERS = 6
SEEN_S = 1.0


def run(profile: str, seed: int, folder: Path) -> list[Outcome]:
    with Arena(folder) as arena:
        outcome = Outcome(fault="T13 last two commits at one instant", injected=ROUNDS[profile], slowest_s=0.0)
        sample = arena.job(4, 2, name="sample")
        for number in range(ROUNDS[profile]):
            _round(arena, sample.id, number, outcome)
        outcome.require(outcome.slowest_s <= SEEN_S, f"the end was seen {outcome.slowest_s:.1f} s late")
        arena.start_worker()
        sample.wait_for_end()
        sample.judge(outcome)
        return [outcome]


def _round(arena: Arena, sample: str, number: int, outcome: Outcome) -> None:
    from parquetry.tasks.broker.connection import connect
    from parquetry.tasks.finalize import finalize
    from parquetry.tasks.ledger.claim import CommitReply
    from parquetry.tasks.ledger.ledger import Ledger
    from tests.chaos.fabricated import fabricate

    ledgers = [Ledger(connect(arena.server.url), f"{ENV}-{number}") for _ in range(2)]
    job, claims, parts = fabricate(arena.folder, ledgers[0], number)
    gate = threading.Barrier(2)

    def commit(i: int) -> CommitReply:
        gate.wait()
        return ledgers[i].commit(claims[i], parts[i])

    with ThreadPoolExecutor(FINALIZERS) as pool:
        replies = list(pool.map(commit, range(2)))
        outcome.require(replies.count(CommitReply.LAST) == 1, f"round {number}: {replies}")
        begin = time.monotonic()
        states = list(pool.map(lambda i: finalize(ledgers[i % 2], job), range(FINALIZERS)))
        outcome.slowest_s = max(outcome.slowest_s, time.monotonic() - begin)
    outcome.require("done" in states, f"round {number}: no finalizer ended the job: {states}")
    outcome.require((arena.folder / f"fabricated-{number}" / "_SUCCESS").exists(), f"round {number}: no _SUCCESS")
