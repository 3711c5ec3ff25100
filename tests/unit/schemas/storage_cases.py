"""What every storage must do, whatever it is made of; each kind runs these cases."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquetry.schemas.errors import StorageError
from parquetry.schemas.storage.storage import Storage


class StorageCases:
    """Cases over the fixture `storage`, an empty folder that need not exist yet."""

    def test_nothing_is_there(self, storage: Storage):
        assert storage.list() == []
        assert storage.list("a/") == []
        assert storage.head("a") is None
        assert storage.try_read("a/b") is None
        storage.delete("a")
        storage.discard_attempts()
        with pytest.raises(StorageError, match="no such file"):
            storage.read("a")
        with pytest.raises(StorageError):
            storage.open("a")

    def test_a_replacement_takes_the_place_in_one_step(self, storage: Storage):
        storage.put("part", b"old")
        with storage.replacement("part") as new:
            new.shut_others()
            new.path.write_bytes(b"new one")
            assert storage.read("part") == b"old"
            assert new.replace()
        assert storage.read("part") == b"new one"
        assert [entry.path for entry in storage.list()] == ["part"]

    def test_a_replacement_that_is_given_up_leaves_nothing(self, storage: Storage):
        storage.put("part", b"old")
        with storage.replacement("part") as new:
            new.shut_others()
            new.path.write_bytes(b"half")
        assert [(entry.path, storage.read(entry.path)) for entry in storage.list()] == [("part", b"old")]

    def test_a_zombie_that_wakes_between_any_two_steps_replaces_nothing(self, storage: Storage):
        storage.put("part", b"old")
        with storage.replacement("part") as zombie:
            zombie.shut_others()
            zombie.path.write_bytes(b"zombie")
            with storage.replacement("part") as heir:
                heir.shut_others()
                heir.path.write_bytes(b"heir")
                assert heir.replace()
            assert not zombie.replace()
        assert storage.read("part") == b"heir"

    def test_put_overwrites(self, storage: Storage):
        storage.put("a/b", b"one")
        before = storage.head("a/b")
        storage.put("a/b", b"three")
        assert storage.read("a/b") == b"three"
        after = storage.head("a/b")
        assert (after.path, after.size) == ("a/b", 5)
        assert after.etag != before.etag

    def test_put_if_absent_does_not(self, storage: Storage):
        assert storage.put_if_absent("_job.json", b"one")
        assert not storage.put_if_absent("_job.json", b"two")
        assert storage.read("_job.json") == b"one"

    def test_list_is_sorted_and_takes_a_prefix(self, storage: Storage):
        for path in ("b", "a/z", "a/b/c", "ab", "x=1/y=é/p"):
            storage.put_if_absent(path, path.encode())
        assert [e.path for e in storage.list()] == ["a/b/c", "a/z", "ab", "b", "x=1/y=é/p"]
        assert [e.path for e in storage.list("a")] == ["a/b/c", "a/z", "ab"]
        assert [e.path for e in storage.list("a/")] == ["a/b/c", "a/z"]
        assert all(entry == storage.head(entry.path) for entry in storage.list())

    def test_a_folder_is_no_file(self, storage: Storage):
        storage.put("a/b", b"x")
        assert storage.head("a") is None

    def test_deleted(self, storage: Storage):
        storage.put("a", b"x")
        storage.delete("a")
        assert storage.head("a") is None
        assert storage.put_if_absent("a", b"y")

    def test_attempt_becomes_the_part(self, storage: Storage):
        with storage.attempt("_attempts/part-00000000.7.parquet") as attempt:
            pq.write_table(pa.table({"a": range(1000)}), attempt)
            assert storage.head("part-00000000.parquet") is None
            assert storage.publish(attempt, "part-00000000.parquet")
        assert not attempt.exists()
        with storage.open("part-00000000.parquet") as file:
            assert pq.read_table(file).column("a").to_pylist() == list(range(1000))

    def test_the_second_attempt_changes_nothing(self, storage: Storage):
        self.publish(storage, b"first", "part")
        before = storage.head("part")
        assert not self.publish(storage, b"second", "part")
        assert storage.head("part") == before
        assert storage.read("part") == b"first"

    def test_attempts_of_one_name_do_not_meet(self, storage: Storage):
        with storage.attempt("_attempts/p.1.parquet") as one, storage.attempt("_attempts/p.1.parquet") as two:
            assert one != two

    def test_a_failed_attempt_is_removed(self, storage: Storage):
        with pytest.raises(RuntimeError), storage.attempt("p") as attempt:
            attempt.write_bytes(b"half")
            raise RuntimeError
        assert not attempt.exists()
        assert storage.list() == []

    def test_one_of_many_wins(self, storage: Storage):
        barrier, won = threading.Barrier(8), []

        def race(number: int) -> None:
            barrier.wait()
            won.append((self.publish(storage, b"%d" % number, "part"), b"%d" % number))

        threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [content for is_winner, content in won if is_winner] == [storage.read("part")]

    def test_attempts_are_discarded(self, storage: Storage):
        storage.put("_attempts/old", b"x")
        storage.put("part", b"x")
        storage.discard_attempts()
        assert [entry.path for entry in storage.list()] == ["part"]

    def test_a_folder_of_attempts_is_discarded_alone(self, storage: Storage):
        for path in ("_attempts/old", "_attempts/sealed/1/a", "_attempts/sealed/1/b", "_attempts/sealed/12/a"):
            storage.put(path, b"x")
        for _ in range(2):
            storage.discard_attempts("sealed/1")
            assert [entry.path for entry in storage.list()] == ["_attempts/old", "_attempts/sealed/12/a"]

    def test_open_seeks(self, storage: Storage):
        storage.put("a", bytes(range(100)))
        with storage.open("a") as file:
            assert file.seek(-10, io.SEEK_END) == 90
            assert file.read(4) == bytes([90, 91, 92, 93])
            assert file.tell() == 94
            file.seek(2, io.SEEK_CUR)
            assert file.read() == bytes([96, 97, 98, 99])
            assert file.read(1) == b""

    def test_probe_leaves_nothing(self, storage: Storage):
        storage.check_put_if_absent()
        assert storage.list() == []

    @staticmethod
    def publish(storage: Storage, content: bytes, name: str) -> bool:
        with storage.attempt(name) as attempt:
            Path(attempt).write_bytes(content)
            return storage.publish(attempt, name)
