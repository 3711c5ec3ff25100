"""A TCP proxy on a loopback port that can be slow, reset connections, or swallow everything."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from tests.chaos.server import free_port

_CHUNK = 1 << 16


class Proxy:
    """Forwards to 127.0.0.1:`target`; its faults are attributes and may be set from any thread."""

    def __init__(self, target: int, seed: int) -> None:
        self.port, self._target, self._random = free_port(), target, random.Random(seed)
        #: seconds each chunk waits, at most; drawn evenly
        self.latency_s = 0.0
        #: chance that a chunk resets its connection instead
        self.reset_chance = 0.0
        self._pass = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._orphans: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, name="proxy", daemon=True).start()
        self._call(self._listen())
        self.heal()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def heal(self) -> None:
        """Forward at once from now on."""
        self.latency_s = self.reset_chance = 0.0
        self._loop.call_soon_threadsafe(self._pass.set)

    def swallow(self) -> None:
        """A black hole: connections stay open and may be made, but no byte goes through until `heal`."""
        self._loop.call_soon_threadsafe(self._pass.clear)

    def reset_all(self) -> int:
        """Reset every connection. Returns how many clients were cut."""
        return self._call(self._reset(set(self._writers))) // 2

    def orphan(self) -> None:
        """Leave every present connection half open for ever: nothing goes through, nobody is told. New ones work."""
        self._orphans |= self._writers

    def close(self) -> None:
        self._call(self._reset(set(self._writers)))
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    async def _listen(self) -> None:
        await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        except (OSError, ConnectionResetError):
            await self._reset({writer, far_writer})
        finally:
            self._forget({writer, far_writer})

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK):
            await self._pass.wait()
            if self._random.random() < self.reset_chance:
                raise ConnectionResetError
            await asyncio.sleep(self._random.uniform(0, self.latency_s))
            await self._pass.wait()
            if writer in self._orphans:
                continue
            writer.write(chunk)
            await writer.drain()
        # one side has closed: so must the other, or its client would wait for ever
        raise ConnectionResetError

    def _forget(self, writers: set[asyncio.StreamWriter]) -> None:
        self._writers -= writers
        self._orphans -= writers
        for writer in writers:
            writer.close()

    async def _reset(self, writers: set[asyncio.StreamWriter]) -> int:
        for writer in writers:
            with suppress(OSError):
                # a zero linger time makes close() send RST instead of FIN
                plug = writer.get_extra_info("socket")
                plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        return len(writers)
