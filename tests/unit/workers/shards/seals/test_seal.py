"""Seals: what comes back is what was written, for whom it was written, or nothing at all."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import dataset

from parquetry.schemas.errors import StorageError
from parquetry.schemas.location import Location
from parquetry.schemas.shard import Shard
from parquetry.schemas.storage.local import LocalStorage
from parquetry.workers.request import Completion, Encoding
from parquetry.workers.shards.pending_rows import Outcome
from parquetry.workers.shards.seals import sealer as sealer_module
from parquetry.workers.shards.seals.reused_rows import ReusedRows
from parquetry.workers.shards.seals.seal import SealInvalidError, decode, encode
from parquetry.workers.shards.seals.seal_folder import SealFolder
from parquetry.workers.shards.seals.sealer import Sealer

SHARD = Shard(index=42, first_row=0, num_rows=1000, slices=())


def completion(*ids: int, logprobs: bool = False) -> Completion:
    found = -np.arange(len(ids), dtype=np.float32) if logprobs else None
    return Completion(id=9, output_ids=np.array(ids, np.int32), finish_reason="stop", logprobs=found)


def row(number: int) -> tuple[int, Outcome]:
    return number, Outcome(number + 1, [completion(*range(number % 5))])


def values_of(result) -> list:
    return (
        result.values.tolist() if isinstance(result, Encoding) else [result.output_ids.tolist(), result.finish_reason]
    )


@pytest.fixture
def folder(tmp_path: Path) -> SealFolder:
    return SealFolder(LocalStorage(Location.parse(str(tmp_path))), SHARD, 7)


def put(folder: SealFolder, *numbers: int, identity: str = "me") -> None:
    folder.put(min(numbers), max(numbers), encode([row(number) for number in numbers], identity))


def files(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.rglob("*.seal"))


@pytest.mark.parametrize(
    "results",
    [
        [completion(1, 2, 3)],
        [completion()],
        [completion(5, logprobs=True), completion(logprobs=True), completion(1, 2, logprobs=True)],
        [Encoding(id=3, values=np.array([0.1, -2.5], np.float32))],
    ],
    ids=["tokens", "nothing", "samples", "vector"],
)
def test_results_come_back_as_they_were(results: list):
    rows = [(11, Outcome(4, results)), (3, Outcome(None, list(reversed(results))))]
    found = decode(encode(rows, "me"), "me", path="here", num_samples=len(results))
    assert {number: outcome.num_prompt_tokens for number, outcome in found.items()} == {11: 4, 3: None}
    for number, outcome in rows:
        for got, wanted in zip(found[number].results, outcome.results, strict=True):
            assert type(got) is type(wanted)
            assert values_of(got) == values_of(wanted)
            if isinstance(wanted, Completion):
                assert (got.logprobs is None) == (wanted.logprobs is None)
                assert got.logprobs is None or got.logprobs.tolist() == wanted.logprobs.tolist()
    assert all(outcome.is_complete and outcome.error is None for outcome in found.values())


def test_every_damage_is_seen():
    data = encode([row(number) for number in range(20)], "me")
    for at in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(SealInvalidError, match="digest"):
            decode(bytes(damaged), "me", path="here")
    for length in (0, 1, 31, 32, 33, len(data) - 1):
        with pytest.raises(SealInvalidError):
            decode(data[:length], "me", path="here")


def test_a_seal_of_another_identity_or_number_of_samples_is_refused():
    data = encode([row(1), row(2), row(3)], "me")
    with pytest.raises(SealInvalidError, match="another job"):
        decode(data, "you", path="here")
    with pytest.raises(SealInvalidError, match="2 results"):
        decode(data, "me", path="here", num_samples=2)


def test_rows_are_found_when_it_is_their_turn_and_read_no_sooner(folder: SealFolder, monkeypatch):
    put(folder, 0, 5, 9)
    put(folder, 8, 20)
    put(folder, 30, 31)
    read: list[str] = []
    original = folder.read
    monkeypatch.setattr(folder, "read", lambda path: read.append(path) or original(path))
    reused = ReusedRows(folder, "me")
    assert sorted(reused.take(0, 6)) == [0, 5]
    assert len(read) == 1
    # row 9 is of the first seal, row 8 of the second
    assert sorted(reused.take(6, 10)) == [2, 3]
    assert len(read) == 2
    assert reused.take(16, 2) == {}
    assert values_of(reused.take(18, 12)[2].results[0]) == values_of(row(20)[1].results[0])
    assert len(read) == 2
    assert sorted(reused.take(30, 100)) == [0, 1]


def test_a_row_that_two_attempts_have_sealed_is_given_out_once(folder: SealFolder):
    put(folder, 1, 2, 3)
    put(folder, 2, 3, 4)
    assert sorted(ReusedRows(folder, "me").take(0, 10)) == [1, 2, 3, 4]


def test_damaged_foreign_and_vanished_seals_are_passed_over(folder: SealFolder, tmp_path: Path, caplog):
    put(folder, 1)
    put(folder, 2, identity="you")
    put(folder, 3)
    put(folder, 4)
    folder.put(5, 5, encode([row(6)], "me"))
    damaged, _, vanished, *_ = files(tmp_path)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (damaged.parent / "notes.txt").touch()
    reused = ReusedRows(folder, "me")
    vanished.unlink()
    assert sorted(reused.take(0, 10)) == [4]
    assert [word in caplog.text for word in ("digest", "another job", "does not tell of")] == [True] * 3


def test_rows_may_be_withheld(folder: SealFolder):
    put(folder, *range(10))
    reused = ReusedRows(folder, "me", num_withheld=3)
    assert sorted(reused.take(0, 2)) == []
    assert sorted(reused.take(2, 8)) == [1, 2, 3, 4, 5, 6, 7]


def test_discarding_leaves_no_file_and_other_shards_alone(folder: SealFolder, tmp_path: Path):
    other = SealFolder(LocalStorage(Location.parse(str(tmp_path))), SHARD.model_copy(update={"index": 4}), 7)
    put(folder, 1)
    put(other, 2)
    folder.discard()
    assert [file.parent.name for file in files(tmp_path)] == ["00000004"]
    assert folder.names() == []


def test_who_reads_the_output_folder_sees_no_seal(folder: SealFolder, tmp_path: Path):
    pq.write_table(pa.table({"row": [1]}), tmp_path / "part-00000000.parquet")
    put(folder, 1)
    assert len(files(tmp_path)) == 1
    assert dataset.dataset(tmp_path).to_table()["row"].to_pylist() == [1]
    for pattern in ("*.parquet", "**/*.parquet", "**/*.arrow", "*"):
        found = [path for path in tmp_path.glob(pattern) if path.is_file()]
        assert {path.name for path in found} <= {"part-00000000.parquet"}


def test_only_answers_without_an_error_are_sealed(folder: SealFolder):
    sealer = Sealer(folder, "me", 100.0)
    sealer.add(*row(1))
    sealer.add(2, Outcome(3, [completion()], error="refused"))
    sealer.close(will_go_on=True)
    assert list(ReusedRows(folder, "me").take(0, 10)) == [1]


def test_nothing_is_sealed_before_its_time_or_for_nobody(folder: SealFolder, tmp_path: Path):
    sealer = Sealer(folder, "me", 100.0)
    sealer.add(*row(1))
    sealer.tick()
    sealer.close(will_go_on=False)
    assert files(tmp_path) == []
    without = Sealer(None, "me", 0.0)
    without.add(*row(1))
    without.tick()
    without.close(will_go_on=True)


def test_many_bytes_are_sealed_before_their_time(folder: SealFolder, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sealer_module, "MAX_SEAL_BYTES", 100)
    sealer = Sealer(folder, "me", 100.0)
    sealer.add(1, Outcome(3, [completion(*range(30))]))
    sealer.tick()
    sealer.close(will_go_on=False)
    assert len(files(tmp_path)) == 1


def test_more_than_storage_takes_is_let_go(folder: SealFolder, monkeypatch):
    monkeypatch.setattr(sealer_module, "MAX_WAITING_BYTES", 100)
    sealer = Sealer(folder, "me", 100.0)
    for number in range(10):
        sealer.add(number, Outcome(3, [completion(*range(20))]))
    sealer.close(will_go_on=True)
    assert sorted(ReusedRows(folder, "me").take(0, 10)) == [0, 1]


def test_a_seal_that_fails_is_tried_again_with_the_next(folder: SealFolder, monkeypatch, caplog):
    fails = iter([True, False])
    original = folder.put

    def put(*arguments) -> None:
        if next(fails):
            raise StorageError(operation="writing", path="it", reason="no space left")
        original(*arguments)

    monkeypatch.setattr(folder, "put", put)
    sealer = Sealer(folder, "me", 1e-9)
    sealer.add(*row(1))
    sealer.tick()
    sealer.add(*row(2))
    sealer.close(will_go_on=True)
    assert "no space left" in caplog.text
    assert sorted(ReusedRows(folder, "me").take(0, 10)) == [1, 2]
    assert sealer.num_sealed == 2


def test_seals_that_always_fail_are_given_up(folder: SealFolder, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(folder, "put", lambda *_: (_ for _ in ()).throw(OSError("full")))
    sealer = Sealer(folder, "me", 1e-9)
    for number in range(200):
        sealer.add(*row(number))
        sealer.tick()
        if sealer._writing is not None:
            sealer._writing.exception()
    sealer.close(will_go_on=True)
    assert caplog.text.count("could not be sealed") == sealer_module.MAX_FAILURES
