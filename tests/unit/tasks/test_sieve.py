"""Which engine a quarantined shard asks for."""

from __future__ import annotations

from parquetry.schemas.job import ModelSpec
from parquetry.tasks.shard.sieve import careful
from parquetry.workers.engine_spec import EngineSpec

SPEC = EngineSpec(task="generate", model_path="/models/m", model=ModelSpec(id="/models/m"))


def test_a_quarantined_shard_shares_its_engine_with_nobody():
    """The engine's deaths are held against what was in flight, which must be this shard's rows alone."""
    first, second = careful(SPEC, "job/1"), careful(SPEC, "job/2")
    assert len({SPEC.key, first.key, second.key}) == 3


def test_a_quarantined_shard_finds_its_engine_again():
    assert careful(SPEC, "job/1").key == careful(SPEC, "job/1").key
