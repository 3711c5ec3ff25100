"""The messages of FUSE that a plain file system needs, as the kernel's include/uapi/linux/fuse.h has them."""

from __future__ import annotations

import os
import stat
import struct
from enum import IntEnum

IN_HEADER = struct.Struct("<IIQQIIIHH")
OUT_HEADER = struct.Struct("<IiQ")
ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
ENTRY = struct.Struct("<QQQQII")
ATTRIBUTES_HEAD = struct.Struct("<QII")
OPENED = struct.Struct("<QII")
INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
SETATTR = struct.Struct("<IIQQQQQQIIIIIIII")
READ = struct.Struct("<QQIIQII")
WRITTEN = struct.Struct("<II")
STATFS = struct.Struct("<QQQQQIIII24x")
DIRENT = struct.Struct("<QQII")
INVALIDATE = struct.Struct("<Qqq")

MAX_WRITE = 128 << 10
BUFFER_BYTES = (1 << 20) + 4096
#: protocol version that we speak; the kernel speaks it with us
MAJOR, MINOR, BIG_WRITES = 7, 31, 1 << 5
#: that attributes in SETATTR are set
SIZE, MODE = 8, 1
#: that GETATTR or SETATTR names an open file
BY_FILE, SET_BY_FILE = 1, 64
#: a notice instead of an answer
NOTE_INVALID_INODE = 2


class Op(IntEnum):
    """Operations; what is not listed is answered with ENOSYS."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    RENAME2 = 45


#: nobody waits for an answer to these
SILENT = (Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT, Op.DESTROY)


def attributes(status: os.stat_result) -> bytes:
    times = [value // 10**9 for value in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)]
    parts = [value % 10**9 for value in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)]
    owner = (status.st_mode, status.st_nlink, status.st_uid, status.st_gid)
    return ATTRIBUTES.pack(status.st_ino, status.st_size, status.st_blocks, *times, *parts, *owner, 0, 4096, 0)


def entry(node: int, status: os.stat_result, cached_s: float) -> bytes:
    """A name's node and attributes, which the kernel may believe for so long."""
    whole, part = _split(cached_s)
    return ENTRY.pack(node, 0, whole, whole, part, part) + attributes(status)


def no_entry(cached_s: float) -> bytes:
    """That there is no such name, to be believed for so long."""
    whole, part = _split(cached_s)
    return ENTRY.pack(0, 0, whole, whole, part, part) + bytes(ATTRIBUTES.size)


def attributes_for(status: os.stat_result, cached_s: float) -> bytes:
    return ATTRIBUTES_HEAD.pack(*_split(cached_s), 0) + attributes(status)


def dirent(name: str, status: os.stat_result, offset: int) -> bytes:
    data = os.fsencode(name)
    found = DIRENT.pack(status.st_ino, offset, len(data), stat.S_IFMT(status.st_mode) >> 12) + data
    return found + bytes(-len(found) % 8)


def names(payload: bytes) -> list[str]:
    return [os.fsdecode(name) for name in payload.split(b"\0")[:-1]]


def _split(seconds: float) -> tuple[int, int]:
    return int(seconds), int(seconds % 1 * 10**9)
