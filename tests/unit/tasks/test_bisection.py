"""Which engine a quarantined shard asks for."""

from __future__ import annotations

from parquetry.schemas.spec.job import ModelSpec
from parquetry.tasks.shard.bisection import quarantine_spec
from parquetry.workers.engine_spec import EngineSpec

SPEC = EngineSpec(task="generate", model_path="/models/m", model=ModelSpec(id="/models/m"))


def test_a_quarantined_shard_shares_its_engine_with_nobody():
    """The engine's deaths are held against what was in flight, which must be this shard's rows alone."""
    first, second = quarantine_spec(SPEC, "job/1"), quarantine_spec(SPEC, "job/2")
    assert len({SPEC.key, first.key, second.key}) == 3


def test_a_quarantined_shard_finds_its_engine_again():
    assert quarantine_spec(SPEC, "job/1").key == quarantine_spec(SPEC, "job/1").key
