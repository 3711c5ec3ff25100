"""The operations of a mount, done in the exported folder, with the manners of an NFS client.

Attributes and names are believed for seconds, missing names too; opening a file asks anew (close-to-open). A file that
is removed or replaced while it is open here is renamed to `.nfs...`, and goes when it is closed.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from errno import EBUSY, EIO
from pathlib import Path

from tests.chaos.nfs import wire
from tests.chaos.nfs.faults import Weather
from tests.chaos.nfs.tree import Tree
from tests.chaos.nfs.wire import Op

CACHED_S = 3.0


@dataclass
class _Open:
    """A file that is open here."""

    descriptor: int
    path: str
    is_written: bool


class Files:
    """`answer` does one operation. `invalidate` tells the kernel to forget a node's attributes."""

    def __init__(self, export: Path, weather: Weather, invalidate: Callable[[int], None]) -> None:
        self._tree, self._weather, self._invalidate = Tree(export), weather, invalidate
        self._opened: dict[int, _Open] = {}
        self._next = 1

    def answer(self, op: Op, node: int, payload: bytes) -> bytes:
        """The answer's payload. Raises OSError."""
        return getattr(self, f"_{op.name.lower()}")(node, payload)

    def _around(self, name: str, path: str, act: Callable[[], bytes], lose: Callable[[], None] = lambda: None) -> bytes:
        return self._weather.around(name, path, act, lose)

    def _init(self, node: int, payload: bytes) -> bytes:
        numbers = (wire.MAJOR, wire.MINOR, 1 << 17, wire.BIG_WRITES, 16, 12, wire.MAX_WRITE, 1, 0, 0, 0)
        return wire.INIT_OUT.pack(*numbers)

    def _lookup(self, node: int, payload: bytes) -> bytes:
        path = self._tree.child(node, wire.names(payload)[0])
        return self._around("lookup", path, lambda: self._found(path))

    def _found(self, path: str) -> bytes:
        try:
            return self._entry(path)
        except FileNotFoundError:
            return wire.no_entry(CACHED_S)

    def _entry(self, path: str) -> bytes:
        status = os.lstat(self._tree.real(path))
        return wire.entry(self._tree.node(path, status), status, CACHED_S)

    def _getattr(self, node: int, payload: bytes) -> bytes:
        flags, file = int.from_bytes(payload[:4], "little"), int.from_bytes(payload[8:16], "little")
        if flags & wire.BY_FILE:
            return wire.attributes_for(os.fstat(self._opened[file].descriptor), CACHED_S)
        path = self._tree.path(node)
        return self._around("getattr", path, lambda: wire.attributes_for(os.lstat(self._tree.real(path)), CACHED_S))

    def _setattr(self, node: int, payload: bytes) -> bytes:
        valid, _, file, size, *_ = values = wire.SETATTR.unpack(payload)
        if valid & wire.SET_BY_FILE:
            os.ftruncate(self._opened[file].descriptor, size)
            return wire.attributes_for(os.fstat(self._opened[file].descriptor), CACHED_S)
        real = self._tree.real(self._tree.path(node))
        if valid & wire.SIZE:
            os.truncate(real, size)
        if valid & wire.MODE:
            os.chmod(real, values[11] & 0o7777)
        return wire.attributes_for(os.lstat(real), CACHED_S)

    def _mkdir(self, node: int, payload: bytes) -> bytes:
        path, mode = self._tree.child(node, wire.names(payload[8:])[0]), int.from_bytes(payload[:4], "little")

        def act() -> bytes:
            os.mkdir(self._tree.real(path), mode & 0o7777)
            return self._entry(path)

        return self._around("mkdir", path, act)

    def _unlink(self, node: int, payload: bytes) -> bytes:
        path = self._tree.child(node, wire.names(payload)[0])
        return self._around("unlink", path, lambda: self._remove(path))

    def _remove(self, path: str) -> bytes:
        if self._is_open(path):
            if os.path.basename(path).startswith(".nfs"):
                raise OSError(EBUSY, "open here")
            self._hide(path)
        else:
            os.unlink(self._tree.real(path))
            self._tree.gone(path)
        return b""

    def _is_open(self, path: str) -> bool:
        return any(found.path == path for found in self._opened.values())

    def _hide(self, path: str) -> None:
        """Remove a name whose file is open here, as NFS clients do."""
        hidden = f"{os.path.dirname(path)}/.nfs{uuid.uuid4().hex[:16]}".lstrip("/")
        self._move(path, hidden)

    def _move(self, old: str, new: str) -> None:
        os.rename(self._tree.real(old), self._tree.real(new))
        self._tree.moved(old, new)
        for found in self._opened.values():
            if found.path == old or found.path.startswith(f"{old}/"):
                found.path = new + found.path[len(old) :]

    def _rmdir(self, node: int, payload: bytes) -> bytes:
        path = self._tree.child(node, wire.names(payload)[0])

        def act() -> bytes:
            os.rmdir(self._tree.real(path))
            self._tree.gone(path)
            return b""

        return self._around("rmdir", path, act)

    def _rename(self, node: int, payload: bytes) -> bytes:
        return self._renamed(node, payload[:8], payload[8:])

    def _rename2(self, node: int, payload: bytes) -> bytes:
        return self._renamed(node, payload[:8], payload[16:])

    def _renamed(self, node: int, folder: bytes, payload: bytes) -> bytes:
        old_name, new_name = wire.names(payload)
        old = self._tree.child(node, old_name)
        new = self._tree.child(int.from_bytes(folder, "little"), new_name)

        def act() -> bytes:
            os.lstat(self._tree.real(old))
            if self._is_open(new):
                self._hide(new)
            self._move(old, new)
            return b""

        return self._around("rename", old, act)

    def _link(self, node: int, payload: bytes) -> bytes:
        old = self._tree.path(int.from_bytes(payload[:8], "little"))
        new = self._tree.child(node, wire.names(payload[8:])[0])

        def act() -> bytes:
            os.link(self._tree.real(old), self._tree.real(new))
            return self._entry(new)

        return self._around("link", new, act)

    def _open(self, node: int, payload: bytes) -> bytes:
        path, flags = self._tree.path(node), int.from_bytes(payload[:4], "little")
        # close-to-open: whoever opens sees what was there when the last writer closed
        self._invalidate(node)
        return self._around("open", path, lambda: self._handle(path, flags & ~os.O_CREAT & ~os.O_EXCL))

    def _create(self, node: int, payload: bytes) -> bytes:
        path = self._tree.child(node, wire.names(payload[16:])[0])
        flags, mode = int.from_bytes(payload[:4], "little"), int.from_bytes(payload[4:8], "little")

        def act() -> bytes:
            handle = self._handle(path, flags | os.O_CREAT, mode & 0o7777)
            return self._entry(path) + handle

        return self._around("create", path, act)

    def _handle(self, path: str, flags: int, mode: int = 0o600) -> bytes:
        kept = flags & (os.O_ACCMODE | os.O_CREAT | os.O_EXCL | os.O_TRUNC)
        if kept & os.O_ACCMODE == os.O_WRONLY:
            kept = kept & ~os.O_ACCMODE | os.O_RDWR
        self._next += 1
        descriptor = os.open(self._tree.real(path), kept | os.O_CLOEXEC, mode)
        self._opened[self._next] = _Open(descriptor, path, is_written=False)
        return wire.OPENED.pack(self._next, 0, 0)

    def _read(self, node: int, payload: bytes) -> bytes:
        file, offset, size, *_ = wire.READ.unpack(payload)
        opened = self._opened[file]
        return self._around("read", opened.path, lambda: os.pread(opened.descriptor, size, offset))

    def _write(self, node: int, payload: bytes) -> bytes:
        file, offset, size, *_ = wire.READ.unpack(payload[: wire.READ.size])
        opened, data = self._opened[file], payload[wire.READ.size :][:size]

        def act() -> bytes:
            opened.is_written = True
            return wire.WRITTEN.pack(os.pwrite(opened.descriptor, data, offset), 0)

        return self._around("write", opened.path, act)

    def _statfs(self, node: int, payload: bytes) -> bytes:
        found = os.statvfs(self._tree.export)
        counts = (found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree)
        return wire.STATFS.pack(*counts, found.f_bsize, 255, found.f_frsize, 0)

    def _release(self, node: int, payload: bytes) -> bytes:
        opened = self._opened.pop(int.from_bytes(payload[:8], "little"))
        os.close(opened.descriptor)
        if os.path.basename(opened.path).startswith(".nfs") and not self._is_open(opened.path):
            with suppress(FileNotFoundError):
                os.unlink(self._tree.real(opened.path))
            self._tree.gone(opened.path)
        return b""

    def _fsync(self, node: int, payload: bytes) -> bytes:
        return self._settled("fsync", payload)

    def _flush(self, node: int, payload: bytes) -> bytes:
        return self._settled("flush", payload)

    def _settled(self, name: str, payload: bytes) -> bytes:
        opened = self._opened[int.from_bytes(payload[:8], "little")]
        # of what is only read there is nothing to lose; ours are also synced through a handle of their own
        if name == "flush" and not opened.is_written:
            return b""
        return self._around(name, opened.path, lambda: b"", lambda: self._lose(opened))

    def _lose(self, opened: _Open) -> None:
        """The second half of the file has not reached the server."""
        # by its name: the handle may be one for reading
        os.truncate(self._tree.real(opened.path), os.fstat(opened.descriptor).st_size // 2)

    def _opendir(self, node: int, payload: bytes) -> bytes:
        self._tree.path(node)
        return wire.OPENED.pack(0, 0, 0)

    def _releasedir(self, node: int, payload: bytes) -> bytes:
        return b""

    def _fsyncdir(self, node: int, payload: bytes) -> bytes:
        return self._around("fsyncdir", self._tree.path(node), lambda: b"")

    def _readdir(self, node: int, payload: bytes) -> bytes:
        _, offset, size, *_ = wire.READ.unpack(payload)
        path = self._tree.path(node)
        return self._around("readdir", path, lambda: self._listed(path, offset, size))

    def _listed(self, path: str, offset: int, size: int) -> bytes:
        listed = b""
        for number, name in enumerate(sorted(os.listdir(self._tree.real(path))), 1):
            if number <= offset:
                continue
            with suppress(FileNotFoundError):
                found = wire.dirent(name, os.lstat(f"{self._tree.real(path)}/{name}"), number)
                if len(listed) + len(found) > size:
                    break
                listed += found
        return listed


def number_of(error: Exception) -> int:
    """The kernel's number of an error."""
    return error.errno or EIO if isinstance(error, OSError) else EIO
