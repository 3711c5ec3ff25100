"""`python -m tests.chaos.nfs.mount EXPORT POINT SEED CHANCE STORMY COUNT` mounts; it takes root and /dev/fuse."""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from tests.chaos.nfs import wire
from tests.chaos.nfs.faults import Weather
from tests.chaos.nfs.files import Files, number_of
from tests.chaos.nfs.wire import Op
from tests.chaos.process import Process, wait_until

_LIBC = ctypes.CDLL(None, use_errno=True)
_NOSUID_NODEV, _DETACH, _BIND, _PRIVATE, _REC = 2 | 4, 2, 4096, 1 << 18, 16384
_NEW_MOUNTS = 0x00020000


def can_mount() -> bool:
    """Whether this machine lets us mount."""
    return os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)


class NfsMount:
    """A mount of `export` at `point`, served by a process of its own."""

    def __init__(self, export: Path, point: Path, seed: int, chance: float, stormy: Path) -> None:
        point.mkdir()
        self.point, self._count = point, point.with_suffix(".faults")
        where = [str(path) for path in (export, point)]
        command = [sys.executable, "-P", "-m", "tests.chaos.nfs.mount", *where, str(seed), str(chance)]
        self._process = Process([*command, str(stormy), str(self._count)], point.with_suffix(".log"))
        wait_until(lambda: os.path.ismount(point), 30.0, f"the mount {point}")

    def faults(self, folder: str) -> int:
        """How many have struck in this folder of the export."""
        lines = self._count.read_text().splitlines() if self._count.exists() else []
        return sum(line.split()[-1].partition("/")[0] == folder for line in lines)

    def end(self) -> None:
        _LIBC.umount2(os.fsencode(self.point), _DETACH)
        self._process.kill()


def seen_through(mount: Path, point: Path) -> None:
    """From now on this process and its children find at `point` what is at `mount`, as on another machine."""
    _checked(_LIBC.unshare(_NEW_MOUNTS))
    _checked(_LIBC.mount(b"none", b"/", None, _REC | _PRIVATE, None))
    _checked(_LIBC.mount(os.fsencode(mount), os.fsencode(point), None, _BIND, None))


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def serve(export: Path, point: Path, weather: Weather) -> None:
    """Mount, and answer the kernel until it is unmounted."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    _checked(_LIBC.mount(b"nfs-like", os.fsencode(point), b"fuse", _NOSUID_NODEV, options))
    files = Files(export, weather, lambda node: _forget_attributes(device, node))
    # the kernel says ENODEV when it is unmounted
    with suppress(OSError):
        while True:
            _answer(device, files, os.read(device, wire.BUFFER_BYTES))


def _answer(device: int, files: Files, message: bytes) -> None:
    _, code, unique, node, *_ = wire.IN_HEADER.unpack(message[: wire.IN_HEADER.size])
    op = next((op for op in Op if op == code), None)
    if op in wire.SILENT:
        return
    error, payload = 38, b""
    if op is not None:
        error, payload = _done(files, op, node, message[wire.IN_HEADER.size :])
    with suppress(FileNotFoundError):
        # the request may have been interrupted
        os.write(device, wire.OUT_HEADER.pack(wire.OUT_HEADER.size + len(payload), -error, unique) + payload)


def _done(files: Files, op: Op, node: int, payload: bytes) -> tuple[int, bytes]:
    try:
        return 0, files.answer(op, node, payload)
    except OSError as error:
        return number_of(error), b""
    # one request must not end the mount; what it was is in its log
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return number_of(error), b""


def _forget_attributes(device: int, node: int) -> None:
    payload = wire.INVALIDATE.pack(node, -1, 0)
    with suppress(OSError):
        head = wire.OUT_HEADER.pack(wire.OUT_HEADER.size + len(payload), wire.NOTE_INVALID_INODE, 0)
        os.write(device, head + payload)


def main() -> int:
    export, point, seed, chance, stormy, count = sys.argv[1:]
    serve(Path(export), Path(point), Weather(int(seed), float(chance), Path(stormy), Path(count)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
