"""Another budget for a job: in the queue, and in its output, from which a job comes back when the queue is lost."""

from __future__ import annotations

from parquetry.schemas.spec.budget import BudgetSpec
from parquetry.tasks.kept_history import try_to_keep_history
from parquetry.tasks.ledger.ledger import Ledger


def change_budget(ledger: Ledger, job: str, budget: BudgetSpec | None) -> None:
    """Give a job another budget, or none; a paused one is resumed by whoever wants it to go on.

    Raises UnknownJobError.
    """
    ledger.set_budget(job, budget)
    try_to_keep_history(ledger, job, ledger.status(job, max_failures=0).output)


def raise_budget(ledger: Ledger, job: str, budget: BudgetSpec | None) -> None:
    """The same where it is larger than the one that the job has, as when its spec is submitted once more."""
    has = ledger.status(job, max_failures=0).budget_gpu_seconds
    if has is not None and (budget is None or budget.ms > 1000 * has):
        change_budget(ledger, job, budget)
