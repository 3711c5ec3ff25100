"""Tells whoever wants to know of jobs that are stalled: nobody can go on with them unless somebody does something."""

from __future__ import annotations

import logging

from parquetry.monitor.progress.job_phase import job_phase
from parquetry.schemas.progress.states import JobPhase, JobState
from parquetry.tasks.ledger.ledger import Ledger

log = logging.getLogger(__name__)
#: one process of all that may looks so often
LOOK_S = 15.0
#: a job that is stalled for so long is told of
PATIENCE_S = 60.0


def tell_stalls(ledger: Ledger) -> list[str]:
    """Look at every running job, unless somebody else just has; the jobs that were told of. Raises
    BrokerUnreachableError."""
    if not ledger.take_turn("stalls", LOOK_S):
        return []
    workers, told = ledger.workers(), []
    for job in (entry.job for entry in ledger.census() if entry.state == JobState.RUNNING):
        phase = job_phase(ledger.status(job, max_failures=0), workers)
        why = phase.reason or "nobody goes on with it" if phase.phase is JobPhase.STALLED else ""
        if ledger.note_stall(job, why, PATIENCE_S):
            log.warning("job %s is stalled: %s", job, why)
            told.append(job)
    return told
