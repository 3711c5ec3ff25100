"""Local storage: the common cases, and what only a file system can do to it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading

import pytest

from parquetry.schemas.errors import LocationError, PutIfAbsentError, StorageError
from parquetry.schemas.location import Location
from parquetry.schemas.storage import local
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage
from tests.unit.schemas.storage_cases import StorageCases


@pytest.fixture
def storage(tmp_path) -> Storage:
    return open_storage(Location.parse(f"{tmp_path}/new/out"))


class TestLocalStorage(StorageCases):
    """Every common case, in a folder that does not exist yet."""


def test_probe_of_a_new_folder_creates_no_folder(storage, tmp_path):
    storage.check_put_if_absent()
    assert list(tmp_path.iterdir()) == []


def test_reading_creates_no_folder(storage, tmp_path):
    storage.list()
    storage.head("a")
    storage.try_read("a")
    assert list(tmp_path.iterdir()) == []


def test_probe_of_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(LocationError, match="not a folder"):
        open_storage(Location.parse(f"{tmp_path}/out")).check_put_if_absent()


def test_probe_names_a_file_system_without_links(storage, monkeypatch):
    def refuse(*_args):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(PutIfAbsentError, match="hard links fail"):
        storage.check_put_if_absent()


def test_probe_names_a_link_that_overwrites(storage, monkeypatch):
    monkeypatch.setattr(os, "link", os.replace)
    with pytest.raises(PutIfAbsentError, match="second create"):
        storage.check_put_if_absent()


def test_a_repeated_link_request_is_not_a_defeat(storage, monkeypatch):
    """A network file system repeats a request whose answer was lost, and answers that the name is taken."""
    real = os.link

    def link_twice(source, target):
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "link", link_twice)
    with storage.attempt("part") as attempt:
        attempt.write_bytes(b"x")
        assert storage.publish(attempt, "part")


def test_part_and_its_name_are_synced_before_publish_returns(storage, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd)))
    with storage.attempt("part") as attempt:
        attempt.write_bytes(b"x")
        storage.publish(attempt, "part")
        assert synced.index(str(attempt)) < len(synced) - 1
    assert synced[-1] == storage.root.path


def test_failures_are_translated(tmp_path):
    (tmp_path / "file").write_text("x")
    storage = open_storage(Location.parse(f"{tmp_path}/file"))
    with pytest.raises(StorageError) as failure:
        storage.put("a", b"x")
    assert failure.value.retryable
    assert str(tmp_path) in str(failure.value)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\x00b"])
def test_paths_do_not_escape(storage, name):
    for verb in (storage.head, storage.try_read, storage.open, storage.delete):
        with pytest.raises(LocationError):
            verb(name)
    with pytest.raises(LocationError):
        storage.put_if_absent(name, b"x")


def test_links_to_folders_are_followed_once(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("x")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "root")
    storage = open_storage(Location.parse(f"{tmp_path}/root"))
    assert [entry.path for entry in storage.list()] == ["link/a"]


def test_a_link_to_nothing_is_not_passed_over(tmp_path):
    (tmp_path / "a.parquet").symlink_to(tmp_path / "gone")
    with pytest.raises(StorageError, match="points nowhere"):
        open_storage(Location.parse(str(tmp_path))).list()


def test_a_folder_that_goes_while_it_is_listed_is_passed_over(storage):
    storage.put("kept", b"x")
    ended = threading.Event()

    def check() -> None:
        while not ended.is_set():
            storage.check_put_if_absent()

    others = [threading.Thread(target=check) for _ in range(3)]
    for other in others:
        other.start()
    try:
        assert all("kept" in [entry.path for entry in storage.list()] for _ in range(500))
    finally:
        ended.set()
        for other in others:
            other.join()


@pytest.mark.parametrize("step", ["make_folder", "sync"])
@pytest.mark.parametrize("write", ["put", "put_if_absent"])
def test_a_file_whose_attempt_others_discard_is_written_again(write, step, storage, monkeypatch):
    """Somebody ends or overwrites a job in the same output just then."""
    real, left = getattr(local, step), [None, None]

    def discarded_before(path):
        if left:
            left.pop()
            storage.discard_attempts()
        real(path)

    monkeypatch.setattr(local, step, discarded_before)
    assert getattr(storage, write)("new", b"x") in (None, True)
    assert (storage.read("new"), left) == (b"x", [])


def test_an_attempt_that_is_gone_each_time_is_an_error(storage, monkeypatch):
    monkeypatch.setattr(local, "sync", lambda _path: storage.discard_attempts())
    with pytest.raises(StorageError, match="new failed: No such file"):
        storage.put("new", b"x")


def test_attempts_are_discarded_though_others_write_some(storage, monkeypatch):
    storage.put("kept", b"x")
    real, left = shutil.rmtree, [errno.ENOTEMPTY, errno.ENOTEMPTY]

    def busy(path):
        if left:
            raise OSError(left.pop(), "Directory not empty")
        real(path)

    monkeypatch.setattr(shutil, "rmtree", busy)
    storage.discard_attempts()
    assert [entry.path for entry in storage.list()] == ["kept"]
    # one who never stops writing is at work there: what he writes is for the next
    monkeypatch.setattr(shutil, "rmtree", lambda _path: os.rmdir(storage.root.path))
    storage.discard_attempts("of-others")


def test_local_storage_loads_no_object_store_client():
    program = "import sys, parquetry.schemas.storage.local; print('obstore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
