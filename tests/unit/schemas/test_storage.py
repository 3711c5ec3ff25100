"""Local storage: the common cases, and what only a file system can do to it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from parquetry.schemas.errors import LocationError, PutIfAbsentError, StorageError
from parquetry.schemas.location import Location
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


def test_attempts_are_discarded_while_others_write_some(storage):
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            with suppress(StorageError):
                storage.put("kept", b"x")

    others = [threading.Thread(target=write) for _ in range(3)]
    for other in others:
        other.start()
    try:
        for _ in range(300):
            storage.discard_attempts()
    finally:
        ended.set()
        for other in others:
            other.join()
    # whose attempts went all the while may have come to nothing
    storage.put("kept", b"x")
    storage.discard_attempts()
    assert [entry.path for entry in storage.list()] == ["kept"]


def test_local_storage_loads_no_object_store_client():
    program = "import sys, parquetry.schemas.storage.local; print('obstore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
