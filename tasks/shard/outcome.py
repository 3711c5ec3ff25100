"""What becomes of a shard whose attempt ended, and of its job."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import StrEnum

from parquetry.schemas.errors import (
    BrokerUnreachableError,
    EngineRefusedError,
    EngineUnfitError,
    JobStoppedError,
    LeaseLostError,
    MissingPackageError,
    NewerRecordError,
    ParquetryError,
    RecordChangedError,
    UnusableEnvironmentError,
)
from parquetry.schemas.log_lines import about
from parquetry.schemas.progress.states import JobState
from parquetry.tasks.cancellation import clear_up
from parquetry.tasks.failpoints import failpoint
from parquetry.tasks.finalize import finalize
from parquetry.tasks.kept_history import try_to_keep_history
from parquetry.tasks.ledger.claim import Claim, CommitReply, ReleaseReply
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.shard.fault_check import judged
from parquetry.tasks.shard.lease import Lease
from parquetry.tasks.shard.row_retry_runner import RowRetryRunner
from parquetry.tasks.shard.shard_runner import ShardRunner
from parquetry.tasks.shard.worker_config import WorkerConfig
from parquetry.tasks.tracing.shard_trace import ShardTrace

log = logging.getLogger(__name__)
#: a shard rests after a fault, twice as long after each, so that a passing fault has time to pass
FIRST_REST_S = 1.0
LONGEST_REST_S = 60.0


class Verdict(StrEnum):
    """What to do with a shard after an error."""

    #: nothing: the shard is no longer ours
    DROP = "drop"
    #: give it back, as if it had not been tried
    RELEASE = "release"
    #: give it back; it has a limited number of such attempts
    LOSE = "lose"
    #: it would fail again wherever it ran
    FAIL = "fail"
    #: and so would every other shard of the job
    STOP = "stop"
    #: so it would on every worker of this kind
    DECLINE = "decline"


@dataclass(frozen=True)
class Decision:
    """A verdict, and for how many seconds the shard rests before it may be claimed again."""

    verdict: Verdict
    rest_s: float = 0.0


def decide(error: Exception, lost_before: int) -> Decision:
    """What to do with a shard whose attempt raised `error`, after so many lost leases; changes nothing."""
    if isinstance(error, (LeaseLostError, BrokerUnreachableError)):
        return Decision(Verdict.DROP)
    if isinstance(error, JobStoppedError):
        return Decision(Verdict.RELEASE)
    if isinstance(error, (EngineUnfitError, RecordChangedError)):
        return Decision(Verdict.STOP)
    if isinstance(error, (EngineRefusedError, MissingPackageError, NewerRecordError)):
        return Decision(Verdict.DECLINE)
    # what this node lacks another node may have
    of_the_node = isinstance(error, UnusableEnvironmentError)
    if isinstance(error, ParquetryError) and not error.retryable and not of_the_node:
        return Decision(Verdict.FAIL)
    return Decision(Verdict.LOSE, rest_s=min(FIRST_REST_S * 2**lost_before, LONGEST_REST_S))


def run_claim(ledger: Ledger, claim: Claim, config: WorkerConfig, asked_ns: int | None = None) -> None:
    """Run a claimed shard, tell the ledger how it ended, and end the job if that was the last one.

    `asked_ns` is when the shard was asked for, since the Unix epoch.
    """
    with about(job=claim.job, shard=claim.shard, attempt=claim.fence):
        _run(ledger, claim, config, ShardTrace(claim, asked_ns))


def _run(ledger: Ledger, claim: Claim, config: WorkerConfig, trace: ShardTrace) -> None:
    failpoint("claimed")
    reply: CommitReply | ReleaseReply
    try:
        with Lease(ledger, claim, config.beat_s) as lease:
            runner = RowRetryRunner if claim.round else ShardRunner
            reply = runner(ledger, lease, config, trace).run()
        log.info("job %s shard %d: %s", claim.job, claim.shard, reply.lower())
    # whatever a shard does must not take the worker with it; it is told to the ledger, and bounded by its attempts
    except Exception as error:  # noqa: BLE001
        trace.failed(error)
        reply = settle(ledger, claim, error)
    trace.end(reply, is_committed=reply in (CommitReply.COMMITTED, CommitReply.LAST))
    if reply in (CommitReply.LAST, ReleaseReply.LAST):
        failpoint("last")
        finalize(ledger, claim.job)


def _give_back(ledger: Ledger, claim: Claim) -> ReleaseReply:
    """Release a shard of a job that was stopped; the last one of a cancelled job leaves its history, and no seals."""
    reply = ledger.release(claim)
    status = ledger.status(claim.job, max_failures=0)
    if status.state is JobState.CANCELLED and not status.shards_running:
        clear_up(ledger, claim.job, claim.output)
    return reply


def settle(ledger: Ledger, claim: Claim, error: Exception) -> ReleaseReply:
    """Give back, count or fail a shard whose attempt raised `error`."""
    error = judged(ledger, claim, error)
    decision = decide(error, claim.lost)
    reason = str(error) if isinstance(error, ParquetryError) else f"{type(error).__name__}: {error}"
    unexpected = None if isinstance(error, ParquetryError) else error
    log.warning("job %s shard %d: %s: %s", claim.job, claim.shard, decision.verdict, reason, exc_info=unexpected)
    failpoint("settle")
    if decision.verdict is Verdict.RELEASE:
        return _give_back(ledger, claim)
    if decision.verdict is Verdict.LOSE:
        return ledger.lose(claim, reason, rest_s=decision.rest_s)
    if decision.verdict is Verdict.FAIL:
        return ledger.fail(claim, reason)
    if decision.verdict in (Verdict.STOP, Verdict.DECLINE):
        of_worker = decision.verdict is Verdict.DECLINE
        reply = ledger.stop(claim, reason, of_rows=isinstance(error, EngineUnfitError), of_worker=of_worker)
        try_to_keep_history(ledger, claim.job, claim.output)
        return reply
    return ReleaseReply.LOST
