"""Leases of shards: claimed, renewed, and ended by a commit, a release or a failure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from parquetry.schemas.manifest import FORMAT_VERSION, PartRecord
from parquetry.schemas.progress.histogram import SHARD_SECONDS
from parquetry.tasks.keys import DIGESTS_PER_KEY
from parquetry.tasks.ledger.claim import (
    BeatReply,
    Claim,
    CommitReply,
    Digest,
    LeaseProgress,
    PrepareReply,
    ReleaseReply,
)
from parquetry.tasks.ledger.roster import ALIVE_S
from parquetry.tasks.ledger.verbs import Verbs

#: reasons are shown, not parsed
MAX_REASON = 500


class Leases(Verbs):
    """The verbs of whoever runs shards."""

    #: version of records up to which this process reads them
    reads = FORMAT_VERSION

    def claim(self, worker: str, queues: Sequence[str]) -> Claim | None:
        """Lease a shard to a worker; None when these queues have no pending shard that it is able to run.

        Chosen by priority, then by the engine of this worker's last claim and by its weights, which are loaded, then by
        fair share; see claim.lua for the bound on waiting.
        """
        keys = [self._keys.open, self._keys.worker(worker)]
        limits = (self.policy.lease_ms, int(self.policy.starvation_s * 1000))
        reply = self._scripts("claim", keys, [self._keys.prefix, worker, *limits, self.reads, *queues])
        if reply is None:
            return None
        job, shard, fence, lost, output, _deadline, blames_rows, record, round = reply
        return Claim(
            job=job,
            shard=int(shard),
            fence=int(fence),
            worker=worker,
            output=output,
            lost=int(lost),
            record=record,
            blames_rows=blames_rows == "1",
            round=int(round),
        )

    def beat(self, claim: Claim, progress: LeaseProgress = LeaseProgress()) -> BeatReply:  # noqa: B008  (frozen)
        """Renew the lease and tell how far the shard is."""
        told = (self.policy.lease_ms, progress.text)
        return BeatReply(self._job("progress/beat", claim.job, claim.shard, claim.token, *told))

    def prepare(self, claim: Claim) -> PrepareReply:
        """Whether the claim's holder may publish its part; without an answer it may not."""
        return PrepareReply(self._job("prepare", claim.job, claim.shard, claim.token, self.policy.prepare_ms))

    def commit(self, claim: Claim, part: PartRecord) -> CommitReply:
        """Count the part that the claim's holder has published."""
        return self._commit(claim.job, claim.token, False, part, claim.round)

    def adopt(self, job: str, part: PartRecord, *, round: int = 0) -> CommitReply:
        """Count a part that was found in storage and verified: that is the truth, whoever holds the lease.

        Of a shard whose error rows are computed anew in `round` what that has added is counted.
        """
        return self._commit(job, "", True, part, round)

    def _commit(self, job: str, token: str, verified: bool, part: PartRecord, round: int) -> CommitReply:
        part = part.added_in(round) if round else part
        numbers = (part.rows, part.error_rows, part.prompt_tokens, part.output_tokens)
        digest = (part.shard % DIGESTS_PER_KEY * Digest.num_bytes, Digest.of(part).pack())
        times = (part.shard_ms, part.prepare_ms, part.write_ms, SHARD_SECONDS.place(part.shard_ms / 1000))
        reused = (part.reused_rows, part.reused_prompt_tokens, part.reused_output_tokens)
        what = (json.dumps(part.errors), *reused, part.last_round.round)
        args = (part.shard, token, int(verified), *numbers, *digest, *times, *what)
        return CommitReply(self._job("progress/commit", job, *args, more_keys=[self._keys.digests(job, part.shard)]))

    def release(self, claim: Claim) -> ReleaseReply:
        """Give the shard back; the attempt does not count."""
        return self._release(claim, 0, "", 0.0)

    def lose(self, claim: Claim, reason: str, *, rest_s: float = 0.0) -> ReleaseReply:
        """Give the shard back after a fault; it is set aside when its attempts are used up."""
        return self._release(claim, self.policy.loss_limit, reason, rest_s)

    def _release(self, claim: Claim, limit: int, reason: str, rest_s: float) -> ReleaseReply:
        rest = (limit, reason[:MAX_REASON], int(rest_s * 1000))
        return ReleaseReply(self._job("release", claim.job, claim.shard, claim.token, *rest))

    def fail(self, claim: Claim, reason: str) -> ReleaseReply:
        """Set the shard aside for good."""
        return ReleaseReply(self._job("fail", claim.job, claim.shard, claim.token, reason[:MAX_REASON]))

    def stop(self, claim: Claim, reason: str, *, of_rows: bool = False, of_worker: bool = False) -> ReleaseReply:
        """Set the shard aside and end its job as failed: the others would end the same way, and stay pending.

        `of_rows` when rows may still be to blame: once retried, the job blames them. `of_worker` when another kind of
        worker may be able: while one lives, the shard is given back and the job left to it.
        """
        silence_ms = int(ALIVE_S * 1000) if of_worker else 0
        told = (claim.shard, claim.token, reason[:MAX_REASON], int(of_rows), silence_ms)
        return ReleaseReply(self._job("progress/stop", claim.job, *told))
