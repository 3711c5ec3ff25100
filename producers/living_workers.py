"""Whether a worker that lives now can run a job: said when it is submitted, for it waits until one can."""

from __future__ import annotations

import logging

from parquetry.schemas.spec.job import JobSpec
from parquetry.tasks.ledger.job_entry import queue_of
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.wanted_worker import to_start
from parquetry.workers.engine_needs import engine_needs, lacking

log = logging.getLogger(__name__)
#: workers that are named in a sentence
MAX_NAMED = 3


def warn_unless_able(spec: JobSpec, ledger: Ledger) -> None:
    """Warn when workers of the job's queue live and each lacks something: the job is stalled until one comes that can.

    Where none lives, that is what the job's phase says; what no worker could run is refused by `validate`.
    """
    queue, needs = queue_of(spec), engine_needs(spec.model)
    serving = [worker for worker in ledger.workers() if queue in worker.queue.split(",") and not worker.drained]
    lacks = {worker.worker: lacking(needs, needs if worker.offers is None else worker.offers) for worker in serving}
    if lacks and all(lacks.values()):
        named = [f"{name} lacks {', '.join(found)}" for name, found in lacks.items()]
        more = f"; and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
        told = "; ".join(named[:MAX_NAMED]) + more
        log.warning("no worker of queue %s can run the job yet: %s; it waits: %s", queue, told, to_start(needs))
