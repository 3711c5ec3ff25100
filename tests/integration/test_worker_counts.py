"""What an engine counts is seen by whoever asks the ledger who lives."""

from __future__ import annotations

from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import EngineStats
from parquetry.tasks.ledger.ledger import Ledger
from tests.chaos.process import wait_until
from tests.integration.jobs_on_disk import make_job


def engine_of_the_worker(ledger: Ledger) -> EngineStats | None:
    return next((worker.engine for worker in ledger.workers()), None)


def test_a_worker_shows_what_its_engine_has_counted(tmp_path, server, ledger, start_worker):
    job = make_job(tmp_path, ledger, rows=60, rows_per_shard=20)
    start_worker(server.url)
    wait_until(lambda: ledger.status(job.name).state is JobState.DONE, 60, "the end of the job")
    tokens = ledger.status(job.name).output_tokens

    def has_all() -> bool:
        counted = engine_of_the_worker(ledger)
        return counted is not None and counted.output_tokens == tokens

    wait_until(has_all, 20, "the engine's counts in the roster")
    counted = engine_of_the_worker(ledger)
    assert counted.prompt_tokens == tokens > 0
    assert (counted.waiting, counted.kv_use, counted.preemptions) == (0, None, 0)
    assert 0 < counted.busy_share < 1
