"""The policy: what becomes of a shard after each kind of error."""

from __future__ import annotations

import pytest

from parquetry.schemas.errors import (
    BrokerUnreachableError,
    EngineLostError,
    EngineRefusedError,
    EngineStartError,
    EngineUnfitError,
    InputChangedError,
    JobStoppedError,
    LeaseLostError,
    MissingPackageError,
    NewerRecordError,
    PartInvalidError,
    RecordChangedError,
    ShardFailedError,
    StorageError,
)
from parquetry.tasks.shard.outcome import LONGEST_REST_S, Verdict, decide


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (LeaseLostError(shard=1), Verdict.DROP),
        (BrokerUnreachableError(url="u", reason="r"), Verdict.DROP),
        (JobStoppedError(job="j", state="cancelled"), Verdict.RELEASE),
        (EngineLostError(reason="r"), Verdict.LOSE),
        (EngineStartError(reason="r"), Verdict.LOSE),
        (StorageError(operation="reading", path="p", reason="r"), Verdict.LOSE),
        (MissingPackageError(feature="f", package="p", install="i"), Verdict.DECLINE),
        (NewerRecordError(path="p", version="v", known=2), Verdict.DECLINE),
        (MemoryError(), Verdict.LOSE),
        (ValueError("a bug"), Verdict.LOSE),
        (EngineRefusedError(reason="r"), Verdict.DECLINE),
        (EngineUnfitError(reason="r"), Verdict.STOP),
        (RecordChangedError(job="j", path="p"), Verdict.STOP),
        (ShardFailedError(shard=1, reason="r"), Verdict.FAIL),
        (InputChangedError(path="p"), Verdict.FAIL),
        (PartInvalidError(path="p", shard=1, reason="r"), Verdict.FAIL),
    ],
)
def test_verdict(error: Exception, verdict: Verdict):
    assert decide(error, 0).verdict is verdict


def test_rest_doubles_up_to_a_bound():
    rests = [decide(EngineLostError(reason="r"), lost).rest_s for lost in range(10)]
    assert rests[:4] == [1, 2, 4, 8]
    assert rests[-1] == LONGEST_REST_S


def test_only_a_lost_attempt_rests():
    assert decide(JobStoppedError(job="j", state="cancelled"), 5).rest_s == 0
