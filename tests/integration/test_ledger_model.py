"""The ledger's scripts against a model of them, under random commands on a real server."""

from __future__ import annotations

import time
import uuid

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from parquetry.schemas.errors import IllegalTransitionError
from parquetry.schemas.progress.states import JobState, may_become
from parquetry.tasks.broker.connection import connect
from parquetry.tasks.keys import Keys
from parquetry.tasks.ledger.claim import Claim
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.ledger.pending import expand
from parquetry.tasks.ledger.policy import Policy
from tests.integration.records import make_part, make_record

JOB, QUEUES, ROWS = "job-1", ("default",), 10
MAX_ATTEMPTS = 3


class LedgerModel(RuleBasedStateMachine):
    """What should be true of one job, kept in plain Python beside the real thing."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.client = connect(self.url)
        env = uuid.uuid4().hex[:12]
        self.keys = Keys(env)
        self.ledger = Ledger(
            self.client, env, Policy(lease_s=60, max_attempts=MAX_ATTEMPTS, starvation_s=300, quarantine_attempts=0)
        )
        #: the same, but every lease it grants is over at once
        self.hasty = Ledger(
            self.client, env, Policy(lease_s=0, max_attempts=MAX_ATTEMPTS, starvation_s=300, quarantine_attempts=0)
        )
        self.state = JobState.RUNNING
        self.claims: list[Claim] = []
        self.owner: dict[int, Claim] = {}
        self.expired: set[int] = set()
        self.resting: set[int] = set()
        self.lost: dict[int, int] = {}
        self.done: set[int] = set()
        self.bad: set[int] = set()
        self.lasts = 0

    def teardown(self) -> None:
        for key in self.client.scan_iter(f"{self.keys.prefix}*", count=1000):
            self.client.delete(key)
        self.client.close()

    @initialize(shards=st.integers(1, 6))
    def register(self, shards: int) -> None:
        self.total = shards
        assert self.ledger.register(make_record(JOB, shards=shards, rows=ROWS))

    @precondition(lambda self: self.total < 12)
    @rule(more=st.integers(0, 3))
    def extend(self, more: int) -> None:
        """An extended job runs again, and what is leased, committed or failed stays so."""
        assert self.ledger.extend(make_record(JOB, shards=self.total + more, rows=ROWS)) == more
        self.total += more
        if more and self.state is not JobState.PAUSED:
            self.state = JobState.RUNNING

    @rule(fewer=st.integers(1, 3))
    def extend_to_fewer(self, fewer: int) -> None:
        assert self.ledger.extend(make_record(JOB, shards=max(1, self.total - fewer), rows=ROWS)) == 0

    @rule()
    def end_as_of_fewer_shards(self) -> None:
        """Whoever saw the last shard end before the job was extended must not end it."""
        if self.state is not JobState.DONE:
            with pytest.raises(IllegalTransitionError):
                self.ledger.set_state(JOB, JobState.DONE, num_shards=self.total - 1)

    @property
    def claimable(self) -> set[int]:
        return set(range(self.total)) - self.done - self.bad - self.owner.keys() - self.resting

    @property
    def is_over(self) -> bool:
        return len(self.done) + len(self.bad) == self.total

    @rule(hasty=st.booleans(), worker=st.sampled_from("ab"))
    def claim(self, hasty: bool, worker: str) -> None:
        claim = (self.hasty if hasty else self.ledger).claim(worker, QUEUES)
        if self.state is not JobState.RUNNING or not self.claimable:
            assert claim is None
            return
        assert claim.shard in self.claimable
        assert claim.fence > max((earlier.fence for earlier in self.claims), default=0)
        assert claim.lost == self.lost.get(claim.shard, 0)
        self.claims.append(claim)
        self.owner[claim.shard] = claim
        if hasty:
            self.expired.add(claim.shard)

    def owns(self, claim: Claim) -> bool:
        return self.owner.get(claim.shard) is claim

    def let_go(self, shard: int) -> None:
        self.owner.pop(shard, None)
        self.expired.discard(shard)

    def count_loss(self, shard: int) -> bool:
        """Whether the shard is now out of attempts."""
        self.lost[shard] = self.lost.get(shard, 0) + 1
        if self.lost[shard] < MAX_ATTEMPTS:
            return False
        del self.lost[shard]
        self.bad.add(shard)
        return True

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def beat(self, data) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        reply = self.ledger.beat(claim)
        if not self.owns(claim):
            assert reply == "LOST"
        elif self.state is JobState.CANCELLED:
            assert reply == "CANCEL"
        elif self.state is JobState.PAUSED:
            assert reply == "PAUSE"
        else:
            assert reply == "OK"
            self.expired.discard(claim.shard)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def prepare(self, data) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        short = "SHORT" if claim.shard in self.expired else "OK"
        expected = "CANCEL" if self.state is JobState.CANCELLED else short
        assert self.ledger.prepare(claim) == (expected if self.owns(claim) else "LOST")

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), verified=st.booleans())
    def commit(self, data, verified: bool) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        part = make_part(claim.shard, fence=claim.fence, rows=ROWS, output_tokens=1)
        reply = self.ledger.adopt(JOB, part) if verified else self.ledger.commit(claim, part)
        if claim.shard in self.done:
            assert reply == "ALREADY"
        elif not verified and not self.owns(claim):
            assert reply == "FENCED"
        else:
            self.let_go(claim.shard)
            self.resting.discard(claim.shard)
            self.bad.discard(claim.shard)
            self.lost.pop(claim.shard, None)
            self.done.add(claim.shard)
            assert reply == ("LAST" if self.is_over else "COMMITTED")

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def release(self, data) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        assert self.ledger.release(claim) == ("OK" if self.owns(claim) else "LOST")
        if self.owns(claim):
            self.let_go(claim.shard)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), rest=st.booleans())
    def lose(self, data, rest: bool) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        reply = self.ledger.lose(claim, "fault", rest_s=0.001 if rest else 0)
        if not self.owns(claim):
            assert reply == "LOST"
            return
        self.let_go(claim.shard)
        if self.count_loss(claim.shard):
            assert reply == ("LAST" if self.is_over else "FAILED")
        else:
            assert reply == "OK"
            self.resting |= {claim.shard} if rest else set()

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def fail(self, data) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        reply = self.ledger.fail(claim, "broken")
        if not self.owns(claim):
            assert reply == "LOST"
            return
        self.let_go(claim.shard)
        self.lost.pop(claim.shard, None)
        self.bad.add(claim.shard)
        assert reply == ("LAST" if self.is_over else "OK")

    @rule()
    def reap(self) -> None:
        time.sleep(0.002)
        reaped = self.ledger.reap(JOB)
        assert (reaped.lost, reaped.rested) == (len(self.expired), len(self.resting))
        failed = 0
        for shard in list(self.expired):
            self.let_go(shard)
            failed += self.count_loss(shard)
        assert reaped.failed == failed
        self.resting.clear()

    @rule(wanted=st.sampled_from([JobState.RUNNING, JobState.PAUSED, JobState.CANCELLED]))
    def set_state(self, wanted: JobState) -> None:
        if wanted is self.state or may_become(self.state, wanted):
            assert self.ledger.set_state(JOB, wanted) is self.state
            self.state = wanted

    @rule()
    def retry(self) -> None:
        assert self.ledger.retry(JOB) == len(self.bad)
        for shard in self.bad:
            self.lost.pop(shard, None)
        self.bad.clear()

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def reopen(self, data) -> None:
        shard = data.draw(st.sampled_from(sorted(self.done)))
        assert self.ledger.reopen(JOB, shard, ROWS)
        self.done.discard(shard)

    @rule()
    def audit_finds_nothing(self) -> None:
        audit = self.ledger.audit(JOB)
        assert (audit.done_off, audit.put_back) == (0, 0)

    @invariant()
    def counts_agree(self) -> None:
        status = self.ledger.status(JOB)
        assert status.state is self.state
        assert (status.shards_done, status.shards_failed) == (len(self.done), len(self.bad))
        assert status.shards_running == len(self.owner)
        assert status.rows_done == len(self.done) * ROWS
        assert self.ledger.committed(JOB) == self.done

    @invariant()
    def every_shard_is_in_one_place(self) -> None:
        keys = self.keys
        leased = {int(shard) for shard in self.client.zrange(keys.of_job(JOB, "lease"), 0, -1)}
        tokens = {int(shard) for shard in self.client.hkeys(keys.of_job(JOB, "tok"))}
        pending = expand(self.client.lrange(keys.of_job(JOB, "pend"), 0, -1))
        assert leased == self.owner.keys() | self.resting
        assert tokens == set(self.owner)
        # a part adopted while its shard waited leaves an entry behind that CLAIM skips
        assert set(pending) - self.done - leased - self.bad == self.claimable
        assert not leased & self.done


@pytest.mark.parametrize("examples", [200])
def test_ledger_keeps_to_its_model(server, examples: int):
    LedgerModel.url = server.url
    run_state_machine_as_test(
        LedgerModel,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
