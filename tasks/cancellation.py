"""Cancelling a job: no shard of it is handed out any more, and what only another attempt would have read goes."""

from __future__ import annotations

from parquetry.schemas.progress.states import JobState
from parquetry.tasks.kept_history import try_to_keep_history
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.workers.shards.seals.seal_folder import try_to_discard_seals


def cancel(ledger: Ledger, job: str, output: str) -> None:
    """Stop a job for good; committed parts stay in its output.

    Raises UnknownJobError, IllegalTransitionError for a job that has ended, BrokerUnreachableError.
    """
    ledger.set_state(job, JobState.CANCELLED)
    # a worker that still holds some of its shards does so again with the last of them
    clear_up(ledger, job, output)


def clear_up(ledger: Ledger, job: str, output: str) -> None:
    """Leave the history of a cancelled job in its output, and no seals."""
    try_to_keep_history(ledger, job, output)
    try_to_discard_seals(output)
