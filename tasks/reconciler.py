"""Repairs what faults leave behind: expired leases, lost permits, counters, jobs whose finalizer died."""

from __future__ import annotations

import logging
import threading

from parquetry.schemas.errors import BrokerRefusedError, ParquetryError
from parquetry.schemas.manifest import FORMAT_VERSION
from parquetry.schemas.settings import settings
from parquetry.tasks.finalize import finalize
from parquetry.tasks.ledger.claim import Unfinished
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.permits import top_up

log = logging.getLogger(__name__)
#: every so many passes the slower checks are made as well
AUDIT_EVERY = 12


class Reconciler:
    """Every node has one; a lock lets one of them work at a time."""

    def __init__(self, ledger: Ledger, url: str, interval_s: float) -> None:
        self._ledger = ledger
        self._url = url
        self._interval_s = interval_s
        self._keep_s = settings().keep_days * 86400
        self._passes = 0
        #: jobs that were left to newer nodes
        self._too_new: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; a pass under way is not waited for, since it may hang with the broker."""
        self._stopping.set()

    def reconcile(self) -> bool:
        """One pass; False when another reconciler is at it. Raises BrokerUnreachableError."""
        with self._ledger.lock("reconcile", max(self._interval_s * 3, 10.0)) as held:
            if held:
                self._repair_all()
        return held

    def _repair_all(self) -> None:
        self._passes += 1
        for entry in self._ledger.census():
            if self._reads(entry):
                self._repair_unless_damaged(entry)
        if self._passes % AUDIT_EVERY == 0:
            self._expire()
        # after the repairs, which may have queued shards or ended jobs
        for queue in {entry.queue for entry in self._ledger.census()}:
            if count := top_up(self._ledger, self._url, queue, issued_by="reconciler"):
                log.debug("%d permits for queue %s", count, queue)

    def _reads(self, entry: Unfinished) -> bool:
        """Whether the job is of a version that this node knows; others are left to newer nodes, with a line."""
        if entry.version > FORMAT_VERSION and entry.job not in self._too_new:
            self._too_new.add(entry.job)
            sentence = "job %s has a record of version %d, and this node reads %d: it is left to newer ones"
            log.warning(sentence, entry.job, entry.version, FORMAT_VERSION)
        return entry.version <= FORMAT_VERSION

    def _repair_unless_damaged(self, entry: Unfinished) -> None:
        try:
            self._repair(entry)
        except BrokerRefusedError as error:
            # what the server says of its record; the other jobs are sound
            log.error("job %s cannot be repaired: %s", entry.job, error)

    def _repair(self, entry: Unfinished) -> None:
        reaped = self._ledger.reap(entry.job)
        if reaped.lost:
            log.warning("job %s: %d leases expired, %d shards failed by it", entry.job, reaped.lost, reaped.failed)
        if self._passes % AUDIT_EVERY == 0:
            self._audit(entry.job)
        if entry.left - reaped.failed == 0:
            self._finalize(entry.job)

    def _audit(self, job: str) -> None:
        audit = self._ledger.audit(job)
        if audit.done_off or audit.put_back:
            log.error("job %s: counter was off by %d, %d shards were lost", job, audit.done_off, audit.put_back)

    def _expire(self) -> None:
        """Drop jobs that ended long ago, or a broker that never forgets would fill up."""
        for job in self._ledger.job_names_before(self._keep_s):
            if self._ledger.remove(job, ended_s=self._keep_s):
                log.info("job %s ended %g days ago; the queue forgets it", job, settings().keep_days)

    def _finalize(self, job: str) -> None:
        try:
            finalize(self._ledger, job)
        except ParquetryError as error:
            log.error("job %s cannot be finalized yet: %s", job, error)

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self.reconcile()
            except ParquetryError as error:
                log.warning("%s", error)
            # nobody else would take back leases: whatever one pass meets, the next is made
            except Exception:
                log.exception("a pass of the reconciler failed")
