"""What faults leave behind in the ledger: found, and put right."""

from __future__ import annotations

from typing import cast

from parquetry.tasks.broker.connection import translated
from parquetry.tasks.keys import DIGESTS_PER_KEY
from parquetry.tasks.ledger.claim import Audit, Claim, Digest, LeaseProgress, Reaped, Unfinished
from parquetry.tasks.ledger.pending import from_bitmap
from parquetry.tasks.ledger.verbs import Verbs

REAP_AT_ONCE = 1000


class Repair(Verbs):
    """The verbs of the reconciler, of nodes whose children died, and of recovery."""

    def reap(self, job: str) -> Reaped:
        """Take back the job's expired leases."""
        lost, failed, rested = self._job(
            "reap", job, self.policy.loss_limit, REAP_AT_ONCE, self.policy.lull_ms, self.policy.grace_ms
        )
        return Reaped(lost=lost, failed=failed, rested=rested)

    def audit(self, job: str) -> Audit:
        """Repair counters, and queue shards that are neither pending, leased, committed nor failed.

        Raises UnknownJobError.
        """
        reply = self._job("audit", job)
        if reply is None:
            raise self._unknown(job)
        return Audit(done_off=reply[0], put_back=reply[1])

    def census(self) -> list[Unfinished]:
        """Every unfinished job: running, paused, or ended with leases out."""
        flat = iter(self._scripts("census", [self._keys.live], [self._keys.prefix]))
        rows = zip(flat, flat, flat, flat, flat, flat, strict=True)
        return [
            Unfinished(job=job, queue=queue, state=state, pending=int(pending), left=int(left), version=int(version))
            for job, queue, state, pending, left, version in rows
        ]

    def pending(self, queue: str) -> int:
        """Shards of a queue's running jobs that wait for a worker."""
        return sum(entry.pending for entry in self.census() if entry.queue == queue)

    def holdings(self, worker: str) -> list[Claim]:
        """The leases a worker holds."""
        return [claim for entry in self.census() for claim in self._held(entry.job, worker)]

    def rows_of(self, worker: str) -> int:
        """Rows that a worker has finished: of the shards that it has committed, and of those that it runs."""
        with translated(self.url):
            committed = cast("str | None", self._client.hget(self._keys.worker(worker), "rows"))
        return int(committed or 0) + sum(self._running_rows(claim) for claim in self.holdings(worker))

    def _running_rows(self, claim: Claim) -> int:
        with translated(self.url):
            told = cast("str | None", self._client.hget(self._keys.of_job(claim.job, "run"), str(claim.shard)))
        return int((told or "0").partition(":")[0])

    def _held(self, job: str, worker: str) -> list[Claim]:
        with translated(self.url):
            tokens = cast("dict[str, str]", self._client.hgetall(self._keys.of_job(job, "tok")))
        split = ((shard, *token.partition(":")) for shard, token in tokens.items())
        return [
            Claim(job=job, shard=int(shard), fence=int(fence), worker=worker, output="")
            for shard, fence, _, holder in split
            if holder == worker and shard.isdigit() and fence.isdigit()
        ]

    def told(self, claim: Claim) -> LeaseProgress:
        """How far a claimed shard was at its last beat."""
        with translated(self.url):
            text = self._client.hget(self._keys.of_job(claim.job, "run"), str(claim.shard))
        return LeaseProgress.parse(cast("str", text or ""))

    def committed(self, job: str) -> set[int]:
        """The shards that are counted as committed."""
        with translated(self.url):
            bitmap = self._client.execute_command("GET", self._keys.of_job(job, "done"), NEVER_DECODE=True)
        return from_bitmap(bitmap or b"")

    def reopen(self, job: str, shard: int, rows: int) -> bool:
        """Queue a committed shard again because its part has vanished from storage."""
        error_rows = self.digests.error_rows(job, shard)
        digest = (shard % DIGESTS_PER_KEY * Digest.num_bytes, bytes(Digest.num_bytes))
        more_keys = [self._keys.digests(job, shard)]
        return bool(self._job("reopen", job, shard, rows, error_rows, *digest, more_keys=more_keys))
