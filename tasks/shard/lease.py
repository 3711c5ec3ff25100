"""A lease and the thread that renews it while its shard runs."""

from __future__ import annotations

import logging
import threading
from typing import Self

from parquetry.schemas.errors import BrokerUnreachableError, JobStoppedError, LeaseLostError, ParquetryError
from parquetry.schemas.progress.states import JobState
from parquetry.tasks.failpoints import failpoint
from parquetry.tasks.ledger.claim import BeatReply, Claim, LeaseProgress
from parquetry.tasks.ledger.ledger import Ledger

log = logging.getLogger(__name__)
STOPPED = {
    BeatReply.CANCEL: JobState.CANCELLED,
    BeatReply.PAUSE: JobState.PAUSED,
    BeatReply.FAIL: JobState.FAILED,
}


class Lease:
    """Renews a claim's lease until the context is left. The runner asks `check` between its steps.

    A beat that gets no answer is tried again, for as long as it takes: if somebody else has been given the shard
    meanwhile, the first answer says so, and nothing is published without one.
    """

    def __init__(self, ledger: Ledger, claim: Claim, beat_s: float) -> None:
        self._ledger = ledger
        self.claim = claim
        self._beat_s = beat_s
        self._progress = LeaseProgress()
        self._verdict: ParquetryError | None = None
        self._left = threading.Event()
        #: set when the next beat should not wait for its time
        self._is_due = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease-{claim.job}-{claim.shard}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._is_due.set()
        # a beat may hang as long as the broker does; the fence makes a late one harmless
        self._thread.join(timeout=self._beat_s)

    def check(self) -> None:
        """Raises LeaseLostError or JobStoppedError when the work on this shard must end."""
        if self._verdict is not None:
            raise self._verdict

    def progress(self, progress: LeaseProgress) -> None:
        """Note how far the shard is, for the next beat. Raises as `check` does."""
        self._progress = progress
        self.check()

    def tell_soon(self, progress: LeaseProgress) -> None:
        """The same, with a beat at once, by the thread that beats."""
        self.progress(progress)
        self._is_due.set()

    def beat(self) -> None:
        """Renew now. Raises as `check` does, and BrokerUnreachableError."""
        failpoint("beat")
        reply = self._ledger.beat(self.claim, self._progress)
        if reply is BeatReply.LOST:
            self._verdict = LeaseLostError(shard=self.claim.shard)
        elif reply in STOPPED:
            self._verdict = JobStoppedError(job=self.claim.job, state=STOPPED[reply])
        self.check()

    def _run(self) -> None:
        while not self._is_left():
            try:
                self.beat()
            except BrokerUnreachableError as error:
                log.warning("no beat for shard %d of %s: %s", self.claim.shard, self.claim.job, error)
            except ParquetryError as error:
                log.warning("%s", error)
                return

    def _is_left(self) -> bool:
        """Wait for the time of the next beat; True when there will be none."""
        self._is_due.wait(self._beat_s)
        self._is_due.clear()
        return self._left.is_set()
