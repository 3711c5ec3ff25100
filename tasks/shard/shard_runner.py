"""One claimed shard, from reading to COMMIT.

claimed -> (its part is there already? -> adopt) -> engine -> run -> verify -> PREPARE -> publish -> COMMIT -> discard

Every step may be the last one this process takes. What is left behind then is a lease that ends by itself, an attempt
nobody reads, seals that the next attempt goes on from, or a published part that the next claim adopts.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from parquetry.schemas.errors import (
    BrokerUnreachableError,
    JobStoppedError,
    LeaseLostError,
    ParquetryError,
    RetryableError,
)
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JobRecord, PartRecord
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.shard import Shard, attempt_name
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage
from parquetry.tasks.failpoints import failpoint
from parquetry.tasks.job_record import cached_record
from parquetry.tasks.ledger.claim import Claim, CommitReply, LeaseProgress, PrepareReply
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.shard.bisection import Bisection, quarantine_spec
from parquetry.tasks.shard.lease import Lease
from parquetry.tasks.shard.worker_config import WorkerConfig
from parquetry.tasks.tracing.shard_trace import ShardTrace
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.process.client import EngineAccess, EngineClient
from parquetry.workers.shards.merge import Merge
from parquetry.workers.shards.part import find_part
from parquetry.workers.shards.pipeline import run_shard
from parquetry.workers.shards.seals.seal_folder import SealFolder
from parquetry.workers.shards.shard_progress import ShardProgress

log = logging.getLogger(__name__)
#: pause between two tries to reach a broker that does not answer
BROKER_RETRY_S = 0.5
#: sealed rows that a quarantined shard computes again: whether its engine answers any row tells whom to blame
NUM_WITNESSES = 16
T = TypeVar("T")


class AttemptChangedError(RetryableError):
    """The attempt {path} of shard {shard} is not what was written to it; is the disk sound?"""


class PartVanishedError(RetryableError):
    """The part of shard {shard} was published and is gone: {path}. Does anybody else delete files there?"""


class ShardRunner:
    """Runs one claim. `run` returns what COMMIT said, or raises what stopped it."""

    def __init__(self, ledger: Ledger, lease: Lease, config: WorkerConfig, trace: ShardTrace | None = None) -> None:
        self.ledger = ledger
        self.trace = trace or ShardTrace(lease.claim)
        self.lease = lease
        self.config = config
        self.claim: Claim = lease.claim
        self.record: JobRecord = cached_record(self.claim.output, self.claim.job, self.claim.record)
        self.shard: Shard = self.record.shard_plan.shard(self.claim.shard)
        self.storage: Storage = open_storage(Location.parse(self.claim.output))
        self.seals = SealFolder(
            self.storage,
            self.shard,
            self.claim.fence,
            before=lambda: failpoint("seal"),
            after=lambda: failpoint("sealed"),
        )

    def run(self) -> CommitReply:
        """Raises LeaseLostError, JobStoppedError, the engine's and the storage's errors, ShardFailedError."""
        failpoint("started")
        if found := self.find():
            return self.adopt(found)
        failpoint("not_found")
        with self.storage.attempt(attempt_name(self.shard.index, self.claim.fence)) as attempt:
            failpoint("attempt")
            part = self.compute(attempt)
            failpoint("computed")
            self.verify(attempt, part)
            failpoint("verified")
            self.prepare()
            failpoint("prepared")
            with self.trace.stage("publish"):
                won = self.storage.publish(attempt, self.shard.part_name)
            failpoint("published")
        reply = self.commit(part) if won else self.adopt(self.found())
        self.discard_seals()
        return reply

    def find(self) -> PartRecord | None:
        """A part published by an attempt that could not report it, or by one that was faster."""
        return find_part(self.storage, self.record, self.shard.index)

    def found(self) -> PartRecord:
        """The part that must be there now. Raises PartVanishedError."""
        part = self.find()
        if part is None:
            raise PartVanishedError(shard=self.shard.index, path=self.storage.root.join(self.shard.part_name))
        return part

    def adopt(self, part: PartRecord) -> CommitReply:
        """Count a part that is in storage: no GPU work is needed for it."""
        failpoint("adopt")
        log.info("job %s: part of shard %d was there already", self.claim.job, self.claim.shard)
        return self.answered(lambda: self.ledger.adopt(self.claim.job, part, round=self.claim.round))

    def compute(self, attempt: Path) -> PartRecord:
        """Run the rows through the engine, write the attempt and read it back."""
        with self.engine() as engine:
            failpoint("engine")
            # from here on its time counts as work
            self.lease.tell_soon(LeaseProgress(is_computing=True))
            return self.run_rows(attempt, engine)

    def run_rows(self, attempt: Path, engine: EngineAccess, merge: Merge | None = None) -> PartRecord:
        """The rows of the shard, or of `merge` alone, which are few and not sealed; raises what run_shard raises."""
        is_sealed = merge is None
        return run_shard(
            self.record,
            self.shard,
            fence=self.claim.fence,
            attempt=attempt,
            engine=engine,
            on_progress=self.progress,
            seals=self.seals if is_sealed else None,
            num_withheld=NUM_WITNESSES if is_sealed and self.is_quarantined else 0,
            merge=merge,
            clocks=self.trace.clocks,
        )

    @property
    def is_quarantined(self) -> bool:
        return self.claim.lost >= self.ledger.policy.max_attempts

    def engine(self) -> EngineClient | Bisection:
        """The engine of our device; a quarantined shard gets one for itself, and may outlive it."""
        spec = EngineSpec.of(self.record)
        if not self.is_quarantined:
            return self.connect(spec)
        log.warning("job %s: shard %d runs in quarantine", self.claim.job, self.claim.shard)
        failpoint("quarantine")
        alone = quarantine_spec(spec, f"{self.claim.job}/{self.claim.shard}")
        return Bisection(lambda: self.connect(alone), blames_rows=self.claim.blames_rows)

    def connect(self, spec: EngineSpec) -> EngineClient:
        shard = f"{self.claim.job}/{self.claim.shard}"
        # an engine that another model had must load first
        with self.trace.stage("engine"):
            return EngineClient.connect(self.config.socket, spec, shard=shard, on_wait=self.lease.check)

    def progress(self, done: ShardProgress) -> None:
        failpoint("progress")
        self.lease.progress(LeaseProgress(**asdict(done), is_computing=True))

    def verify(self, attempt: Path, part: PartRecord) -> None:
        """Raise AttemptChangedError unless the attempt's bytes are still those that were written and checked."""
        self.trace.counted(part)
        with self.trace.stage("verify"), attempt.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != part.sha256:
            raise AttemptChangedError(path=attempt, shard=self.shard.index)

    def prepare(self) -> None:
        """Make sure that the shard is still ours; without an answer nothing is published."""
        while True:
            failpoint("prepare")
            reply = self.answered(lambda: self.ledger.prepare(self.claim))
            if reply is PrepareReply.OK:
                return
            if reply is PrepareReply.LOST:
                raise LeaseLostError(shard=self.claim.shard)
            if reply is PrepareReply.CANCEL:
                raise JobStoppedError(job=self.claim.job, state=JobState.CANCELLED)
            self.answered(self.lease.beat)

    def commit(self, part: PartRecord) -> CommitReply:
        """Report the part we published."""
        failpoint("commit")
        with self.trace.stage("commit"):
            reply = self.answered(lambda: self.ledger.commit(self.claim, part))
        failpoint("committed")
        # the lease ended while we published: what counts is what is in storage, and that is ours
        return self.adopt(self.found()) if reply is CommitReply.FENCED else reply

    def discard_seals(self) -> None:
        """The part is there, so nobody goes on from them. What can't be removed goes with the job's attempts."""
        try:
            failpoint("discard")
            self.seals.discard()
        except ParquetryError as error:
            log.warning("%s", error)

    def answered(self, ask: Callable[[], T]) -> T:
        """Ask the broker until it answers, or the lease is over."""
        while True:
            try:
                return ask()
            except BrokerUnreachableError as error:
                log.warning("%s", error)
                time.sleep(BROKER_RETRY_S)
                self.lease.check()
