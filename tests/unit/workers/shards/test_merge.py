"""Error rows computed anew among the rows of their part: whichever they are, and whatever becomes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parquetry.schemas.errors import ShardFailedError
from parquetry.schemas.manifest import JobRecord, PartRecord
from parquetry.schemas.number_ranges import numbers_in, ranges
from parquetry.schemas.spec.row_retry import RowRetry
from parquetry.workers.request import Encoding
from parquetry.workers.shards import merge
from parquetry.workers.shards.merge import Merge
from parquetry.workers.shards.part import inspect
from parquetry.workers.shards.pipeline import run_shard
from tests.unit.workers.shards.test_pipeline import EchoEngine
from tests.unit.workers.workers_records import DirectClient, make_record, write_table

ROWS = 60
#: of the second shard, whose rows do not begin at 0
FIRST, STOP = 20, 50


class VectorEngine(EchoEngine):
    """Vectors that tell their row, and errors where they are asked for."""

    def _answer(self, request):
        error = "refused" if request.id in self._error_rows else None
        return Encoding(id=request.id, values=np.full(3, len(request.token_ids), np.float32), error=error)


@pytest.fixture(scope="module")
def record(tmp_path_factory, causal_lm) -> JobRecord:
    """Three shards; their rows carry columns of several types."""
    columns = {
        "id": pa.array(range(ROWS)),
        "text": [f"row {i}" + " fox" * (i % 5) for i in range(ROWS)],
        "kind": pa.array([f"k{i % 3}" for i in range(ROWS)]).dictionary_encode(),
        "tags": pa.array([[f"t{i}"] * (i % 3) for i in range(ROWS)]),
    }
    folder = tmp_path_factory.mktemp("merge")
    source = write_table(folder / "in.parquet", columns, row_group_size=7)
    made = make_record(
        [source],
        model={"id": str(causal_lm)},
        prompt={"template": "{{ text }}", "chat": False},
        generation={"max_new_tokens": 16, "n": 2, "temperature": 1.0, "logprobs": True},
    )
    plan = made.shard_plan.model_copy(update={"bounds": (0, FIRST, STOP, ROWS)})
    return made.model_copy(update={"shard_plan": plan})


def compute(record: JobRecord, path: Path, errors: set[int], engine=EchoEngine) -> PartRecord:
    client = DirectClient(engine(error_rows=tuple(errors)))
    return run_shard(record, record.shard_plan.shard(1), fence=1, attempt=path, engine=client)


def recompute(record: JobRecord, base: Path, path: Path, errors: set[int], round: int = 1, **spec) -> EchoEngine:
    """Merge once more; the engine that did it."""
    shard, engine = record.shard_plan.shard(1), EchoEngine(error_rows=tuple(errors))
    asked: list[int] = []
    add = engine.add
    engine.add = lambda requests: (asked.extend(request.row for request in requests), add(requests))
    retry = RowRetry(
        job=record.job,
        round=round,
        created="now",
        spec=record.spec.model_copy(update=spec),
        model_path=record.model_path,
        changes={"some.key": round},
    )
    with base.open("rb") as file:
        opened = Merge(file, inspect(file, base.name, record, shard), retry, shard.first_row)
        client = DirectClient(engine)
        run_shard(retry.applied(record), shard, fence=round + 1, attempt=path, engine=client, merge=opened)
        opened.close()
    engine.asked = sorted(set(asked))
    return engine


rows_of_shard = st.sets(st.integers(FIRST, STOP - 1))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(first=rows_of_shard, rounds=st.lists(rows_of_shard, min_size=1, max_size=3), batch_rows=st.integers(1, 40))
def test_every_row_is_there_once_and_only_error_rows_change(record, tmp_path_factory, first, rounds, batch_rows):
    folder = tmp_path_factory.mktemp("property")
    compute(record, folder / "sound", set())
    sound = pq.read_table(folder / "sound")
    compute(record, folder / "0", first)
    failed = set(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "_BATCH_ROWS", batch_rows)
        for number, errors in enumerate(rounds, 1):
            before = pq.read_table(folder / f"{number - 1}")
            engine = recompute(record, folder / f"{number - 1}", folder / f"{number}", errors, number)
            table = pq.read_table(folder / f"{number}")
            assert engine.asked == sorted(failed)
            failed &= errors
            assert table["row"].to_pylist() == list(range(FIRST, STOP))
            assert table.select(["id", "text", "kind", "tags"]).equals(sound.select(["id", "text", "kind", "tags"]))
            for row, (now, was, right) in enumerate(
                zip(table.to_pylist(), before.to_pylist(), sound.to_pylist(), strict=True), FIRST
            ):
                if row in failed:
                    assert (now["error"], now["output"]) == ("refused", None)
                else:
                    assert {k: v for k, v in now.items() if k != "logprobs"} == {
                        k: v for k, v in right.items() if k != "logprobs"
                    }
                if was["error"] is None:
                    assert now == was
    with (folder / f"{len(rounds)}").open("rb") as file:
        part = inspect(file, "part", record, record.shard_plan.shard(1))
    assert (part.rows, part.error_rows, sum(part.errors.values())) == (STOP - FIRST, len(failed), len(failed))
    assert part.last_round.round == len(rounds)


def test_the_footer_tells_which_rows_were_computed_with_what(record, tmp_path):
    compute(record, tmp_path / "0", {20, 21, 30})
    before = pq.ParquetFile(tmp_path / "0").schema_arrow.metadata
    recompute(record, tmp_path / "0", tmp_path / "1", {21})
    changed = record.spec.generation.model_copy(update={"temperature": 2.0})
    recompute(record, tmp_path / "1", tmp_path / "2", set(), 2, generation=changed)
    file = pq.ParquetFile(tmp_path / "2")
    after, (first, second) = file.schema_arrow.metadata, json.loads(file.metadata.metadata[b"parquetry.row_rounds"])
    assert {key for key in after if after[key] != before.get(key)} == {b"parquetry.fence"}
    assert (first["rows"], second["rows"]) == ("20-21,30", "21")
    assert (first["provenance"], set(second["provenance"])) == ({}, {"sampling"})
    assert (first["changes"], second["changes"]) == ({"some.key": 1}, {"some.key": 2})
    assert (first["errors_before"], second["errors_before"]) == ({"refused": 3}, {"refused": 1})


def test_settings_that_give_other_columns_fail_the_shard_and_leave_no_part(record, tmp_path):
    compute(record, tmp_path / "0", {20})
    one = record.spec.generation.model_copy(update={"n": 1})
    with pytest.raises(ShardFailedError, match="its columns would be"):
        recompute(record, tmp_path / "0", tmp_path / "1", set(), generation=one)


def test_a_retry_that_is_stopped_leaves_no_part(record, tmp_path):
    compute(record, tmp_path / "0", set(range(FIRST, STOP)))

    class Stopped(EchoEngine):
        def step(self):
            raise RuntimeError("stop")

    with (tmp_path / "0").open("rb") as file:
        shard = record.shard_plan.shard(1)
        retry = RowRetry(job=record.job, round=1, created="", spec=record.spec, model_path=record.model_path)
        opened = Merge(file, inspect(file, "0", record, shard), retry, shard.first_row)
        with pytest.raises(RuntimeError, match="stop"):
            run_shard(record, shard, fence=2, attempt=tmp_path / "1", engine=DirectClient(Stopped()), merge=opened)
    with pytest.raises(pa.ArrowInvalid):
        pq.ParquetFile(tmp_path / "1")


def test_vectors_are_merged_too(tmp_path, embedder):
    texts = {"id": range(9), "text": [f"a text {i}" for i in range(9)]}
    source = write_table(tmp_path / "in.parquet", texts)
    record = make_record([source], task="embed", model={"id": str(embedder)}, rows_per_shard=5)
    shard = record.shard_plan.shard(1)
    failing = DirectClient(VectorEngine(error_rows=(2, 4)))
    run_shard(record, shard, fence=1, attempt=tmp_path / "0", engine=failing)
    retry = RowRetry(job=record.job, round=1, created="", spec=record.spec, model_path=record.model_path)
    with (tmp_path / "0").open("rb") as file:
        opened = Merge(file, inspect(file, "0", record, shard), retry, shard.first_row)
        assert list(opened.numbers) == [6, 8]
        sound = DirectClient(VectorEngine())
        part = run_shard(record, shard, fence=2, attempt=tmp_path / "1", engine=sound, merge=opened)
    table = pq.read_table(tmp_path / "1")
    assert (part.error_rows, table["error"].null_count) == (0, 4)
    assert table["row"].to_pylist() == [5, 6, 7, 8]
    assert table["embedding"].null_count == 0


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([3, 4, 5], "3-5"), ([0, 2, 3, 9], "0,2-3,9"), ([7, 8], "7-8")]
)
def test_ranges_of_rows_as_text(numbers, text):
    assert ranges(numbers) == text
    assert numbers_in(text) == set(numbers)
