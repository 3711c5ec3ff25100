"""Whether a worker that lives now can run a job: asked before anything of it is written."""

from __future__ import annotations

from parquetry.schemas.errors import UnusableEnvironmentError
from parquetry.schemas.spec.job import JobSpec
from parquetry.tasks.ledger.job_entry import queue_of
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.workers.engine_needs import engine_needs, lacking

#: workers that are named in a sentence
MAX_NAMED = 3


class NoAbleWorkerError(UnusableEnvironmentError):
    """No worker of queue {queue} can run the job: {lacks}. Start one that can, or ask for another quantization,
    attention or back end."""


def require_able_worker(spec: JobSpec, ledger: Ledger) -> None:
    """Raise NoAbleWorkerError when workers of the job's queue live and each lacks something.

    Where none lives, one that can may still come.
    """
    queue, needs = queue_of(spec), engine_needs(spec.model)
    serving = [worker for worker in ledger.workers() if queue in worker.queue.split(",") and not worker.drained]
    lacks = {worker.worker: lacking(needs, needs if worker.offers is None else worker.offers) for worker in serving}
    if lacks and all(lacks.values()):
        named = [f"{name} lacks {', '.join(found)}" for name, found in lacks.items()]
        more = f"; and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
        raise NoAbleWorkerError(queue=queue, lacks="; ".join(named[:MAX_NAMED]) + more)
