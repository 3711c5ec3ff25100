"""Frames on a unix socket: a small JSON header and a binary payload, both with their length in front.

4 bytes header length, 4 bytes payload length (big endian), header (UTF-8 JSON object), payload
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

_LENGTHS = struct.Struct(">II")
MAX_HEADER_BYTES = 4 << 20
MAX_PAYLOAD_BYTES = 1 << 30
_RECEIVE_BYTES = 1 << 20
#: sun_path of sockaddr_un holds 108 bytes on Linux, 104 elsewhere, with the final zero
_MAX_PATH_BYTES = 100


class WireError(Exception):
    """The other side does not speak this protocol."""


class Frame(NamedTuple):
    """One message."""

    header: dict[str, Any]
    payload: bytes = b""


def pack_frame(frame: Frame) -> bytes:
    """The frame as bytes. Raises WireError when it is too large."""
    header = json.dumps(frame.header, separators=(",", ":")).encode()
    _check_lengths(len(header), len(frame.payload))
    return b"".join((_LENGTHS.pack(len(header), len(frame.payload)), header, frame.payload))


class FrameBuffer:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes. Raises WireError on anything that cannot be a frame."""
        self._bytes += data
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        if len(self._bytes) < _LENGTHS.size:
            return None
        header_length, payload_length = _LENGTHS.unpack_from(self._bytes)
        _check_lengths(header_length, payload_length)
        body = _LENGTHS.size + header_length
        stop = body + payload_length
        if len(self._bytes) < stop:
            return None
        frame = Frame(_header(self._bytes[_LENGTHS.size : body]), bytes(memoryview(self._bytes)[body:stop]))
        del self._bytes[:stop]
        return frame


def receive(connection: socket.socket, buffer: FrameBuffer) -> list[Frame] | None:
    """The frames that one read completes, maybe none; None when the other side has closed."""
    try:
        data = connection.recv(_RECEIVE_BYTES)
    except (ConnectionError, BrokenPipeError):
        return None
    return list(buffer.feed(data)) if data else None


def send(connection: socket.socket, frame: Frame) -> None:
    """Send the whole frame; blocks while the other side does not read. Raises OSError when it is gone."""
    connection.sendall(pack_frame(frame))


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, for this user only. An old socket of that name is replaced."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short(path) as address:
        listener.bind(address)
    path.chmod(0o600)
    listener.listen(64)
    return listener


def dial(path: Path) -> socket.socket:
    """A connection to the socket at `path`. Raises OSError when nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as address:
            connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of the socket that fits into a socket address, however deep its folder lies."""
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _check_lengths(header: int, payload: int) -> None:
    if header > MAX_HEADER_BYTES or payload > MAX_PAYLOAD_BYTES:
        raise WireError(f"a frame of {header} + {payload} bytes is larger than allowed")


def _header(data: bytearray) -> dict[str, Any]:
    try:
        header = json.loads(data)
    except ValueError as error:
        raise WireError("a frame's header is not JSON") from error
    if not isinstance(header, dict):
        raise WireError("a frame's header is not an object")
    return header
