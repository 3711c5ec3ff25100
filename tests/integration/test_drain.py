"""A worker that is drained from elsewhere: it ends what it has, takes no more, and goes on when told."""

from __future__ import annotations

from parquetry.monitor.progress.job_phase import job_phase
from parquetry.schemas.progress.states import JobPhase, JobState
from tests.chaos.process import wait_until
from tests.integration.jobs_on_disk import make_job


def test_a_drained_worker_ends_its_shards_and_goes_on_when_told(tmp_path, server, ledger, start_worker):
    job = make_job(tmp_path, ledger, rows=120, rows_per_shard=10)
    start_worker(server.url, CHAOS_MS_PER_ROW="60")
    wait_until(lambda: ledger.status(job.name).shards_done > 0, 60, "the first part")
    (worker,) = ledger.workers()
    ledger.roster.drain(worker.worker)
    wait_until(lambda: ledger.status(job.name).shards_running == 0, 60, "the end of the shards in flight")
    status = ledger.status(job.name)
    assert 0 < status.shards_done < 12 and status.retries == 0
    # two announcements later it is as it was
    seen = ledger.workers()[0].seen
    wait_until(
        lambda: ledger.workers() and ledger.workers()[0].seen > seen + 5, 30, "a drained worker that tells of it"
    )
    assert ledger.workers()[0].drained
    assert ledger.status(job.name).shards_done == status.shards_done
    phase = job_phase(ledger.status(job.name), ledger.workers())
    assert phase.phase is JobPhase.STALLED and "drained" in phase.reason
    ledger.roster.drain(worker.worker, wanted=False)
    wait_until(lambda: ledger.status(job.name).state is JobState.DONE, 60, "the end of the job")
    assert ledger.workers()[0].worker == worker.worker
    assert sorted(job.rows()) == list(range(120))
