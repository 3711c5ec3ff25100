"""Storage on a file system with the manners of NFS, mounted twice: lost answers, caches, files that stay open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EEXIST, EIO, ENOENT, ENOSPC
from pathlib import Path

import pytest

from parquetry.schemas.errors import StorageError
from parquetry.schemas.location import Location
from parquetry.schemas.storage.local import LocalStorage
from tests.chaos.nfs.mount import NfsMount, can_mount

pytestmark = pytest.mark.skipif(not can_mount(), reason="mounting takes root and /dev/fuse")


@dataclass
class Machines:
    """Two mounts of one export, and the weather between them and the server."""

    folder: Path
    mounts: tuple[NfsMount, NfsMount]

    def storage(self, machine: int, output: str) -> LocalStorage:
        return LocalStorage(Location.parse(str(self.mounts[machine].point / output)))

    def on_server(self, output: str, name: str) -> bytes | None:
        file = self.folder / "export" / output / name
        return file.read_bytes() if file.exists() else None

    @contextmanager
    def weather(self, output: str, fault: str) -> Iterator[None]:
        file = self.folder / "stormy" / output
        file.write_text(fault)
        yield
        file.unlink()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("nfs")
    for name in ("export", "stormy"):
        (folder / name).mkdir()
    first, second = (NfsMount(folder / "export", folder / f"m{n}", n, 0.0, folder / "stormy") for n in range(2))
    try:
        yield Machines(folder, (first, second))
    finally:
        first.end()
        second.end()


def test_a_link_that_is_made_and_refused_counts_as_made(machines: Machines) -> None:
    storage = machines.storage(0, "linked")
    storage.put("other", b"")
    with machines.weather("linked", f"link after {EEXIST}"):
        assert storage.put_if_absent("part", b"one")
    assert not storage.put_if_absent("part", b"two")
    assert machines.on_server("linked", "part") == b"one"


@pytest.mark.parametrize(
    "fault",
    [f"link after {EIO}", f"rename after {ENOENT}", f"fsync lose {EIO}", f"flush lose {ENOSPC}", f"write before {EIO}"],
)
@pytest.mark.parametrize("verb", ["put", "put_if_absent"])
def test_a_failure_is_told_and_leaves_a_whole_file_or_none(machines: Machines, verb: str, fault: str) -> None:
    output = f"{verb}-{fault.replace(' ', '-')}"
    storage, data = machines.storage(0, output), bytes(range(256)) * 100
    storage.put("other", b"")
    with machines.weather(output, fault):
        try:
            assert getattr(storage, verb)("part", data) is not False
        except StorageError:
            pass
    assert machines.on_server(output, "part") in (None, data)
    storage.put_if_absent("part", data)
    assert machines.on_server(output, "part") == data


def test_a_machine_that_believes_there_is_no_file_does_not_replace_it(machines: Machines) -> None:
    first, second = machines.storage(0, "cached"), machines.storage(1, "cached")
    first.put("other", b"")
    assert second.head("part") is None
    assert first.put_if_absent("part", b"first")
    # still believed; the server knows better
    assert second.head("part") is None
    assert not second.put_if_absent("part", b"second")
    assert machines.on_server("cached", "part") == b"first"


def test_an_attempt_that_is_open_hinders_no_end_of_the_job(machines: Machines) -> None:
    storage = machines.storage(0, "open")
    with storage.attempt("part.parquet") as attempt, attempt.open("wb"):
        storage.discard_attempts()
        assert not attempt.exists()
    storage.discard_attempts()
    assert not (machines.folder / "export/open/_attempts").exists()


def test_who_is_shut_out_with_a_file_open_replaces_nothing(machines: Machines) -> None:
    storage = machines.storage(0, "gates")
    storage.put("part", b"old")
    with storage.replacement("part") as late, storage.replacement("part") as new:
        with late.path.open("wb") as file:
            file.write(b"late")
            file.flush()
            new.shut_others()
            assert not late.replace()
        new.path.write_bytes(b"new")
        assert new.replace()
    assert machines.on_server("gates", "part") == b"new"
