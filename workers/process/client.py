"""The shard runner's end of an engine: asks the device's supervisor for it, then talks to it directly."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from parquetry.schemas.errors import (
    EngineFaultError,
    EngineLostError,
    EngineRefusedError,
    EngineStartError,
    ParquetryError,
)
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.process.messages import (
    ASK,
    HERE,
    RESULTS,
    UNDER_WAY,
    read_results,
    read_under_way,
    request_frames,
)
from parquetry.workers.process.wire import Frame, FrameBuffer, WireError, dial, receive, send
from parquetry.workers.request import Request, Result, UnderWay

_WAIT_S = 1.0
#: how often the supervisor is told that this process lives and works
_SIGN_S = 1.0
#: how long after an engine's end its supervisor has to say why
_REASON_S = 5.0


class EngineAccess(Protocol):
    """What runs a shard's requests: an engine, or something that stands in front of several."""

    def describe(self) -> dict[str, str]: ...

    def submit(self, requests: Sequence[Request]) -> None: ...

    def cancel(self, ids: Collection[int]) -> None: ...

    def results(self, timeout: float = 0.0) -> list[Result]: ...

    def under_way(self) -> Collection[UnderWay]: ...


class EngineClient:
    """One connection to an engine, used by one thread. Closing it cancels what is unfinished and frees the engine."""

    def __init__(self, supervisor: socket.socket) -> None:
        self._supervisor = _Link(supervisor)
        self._connected: _Link | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(supervisor, selectors.EVENT_READ, self._supervisor)
        self._description: dict[str, str] = {}
        #: of requests that the engine has begun, as it told last
        self._under_way: dict[int, UnderWay] = {}
        self._signed = time.monotonic()

    @classmethod
    def connect(
        cls, supervisor: Path, spec: EngineSpec, *, shard: str = "", on_wait: Callable[[], None] | None = None
    ) -> EngineClient:
        """Wait until the supervisor that listens at this socket has an engine with `spec`, which may have to load.

        `shard`, as "job/shard", tells whose rows will be in flight. `on_wait` is called about once a second meanwhile
        and may raise to give up. Raises EngineStartError (a passing fault) or EngineRefusedError (this spec will never
        load here).
        """
        try:
            client = cls(dial(supervisor))
        except OSError as error:
            raise EngineStartError(reason=f"no supervisor listens at {supervisor} ({error.strerror})") from None
        try:
            client._ask(spec, shard, on_wait or (lambda: None))
        except BaseException:
            client.close()
            raise
        return client

    def _ask(self, spec: EngineSpec, shard: str, on_wait: Callable[[], None]) -> None:
        self._send(self._supervisor, Frame({"op": ASK, "spec": spec.model_dump(mode="json"), "shard": shard}))
        answer = self._wait_for(self._supervisor, on_wait).header
        if answer["op"] != "ready":
            raise (EngineRefusedError if answer.get("permanent") else EngineStartError)(reason=answer["reason"])
        try:
            connection = dial(Path(answer["socket"]))
        except OSError:
            raise self._lost() from None
        self._connected = _Link(connection)
        self._selector.register(connection, selectors.EVENT_READ, self._connected)
        self._description = self._wait_for(self._connected, on_wait).header["describe"]

    def _wait_for(self, link: _Link, on_wait: Callable[[], None]) -> Frame:
        while not link.frames:
            self._poll(_WAIT_S)
            on_wait()
        return link.frames.pop(0)

    @property
    def _engine(self) -> _Link:
        assert self._connected is not None, "`connect` ends with a connection to the engine"
        return self._connected

    def describe(self) -> dict[str, str]:
        """The engine's provenance: backend, attention, dtype, quantization and versions."""
        return dict(self._description)

    def submit(self, requests: Sequence[Request]) -> None:
        """Hand requests over; ids must be unused on this connection. Raises EngineLostError."""
        for frame in request_frames(requests):
            self._send(self._engine, frame)

    def cancel(self, ids: Collection[int]) -> None:
        """Forget these requests. Raises EngineLostError."""
        self._send(self._engine, Frame({"op": "cancel", "ids": list(ids)}))

    def results(self, timeout: float = 0.0) -> list[Result]:
        """What has finished, in any order; waits up to `timeout` seconds for the first. Raises EngineLostError."""
        deadline = time.monotonic() + timeout
        engine = self._engine
        while not engine.frames:
            left = deadline - time.monotonic()
            self._poll(max(left, 0.0))
            if left <= 0:
                break
        frames, engine.frames = engine.frames, []
        return [result for frame in frames for result in self._take(frame)]

    def _take(self, frame: Frame) -> list[Result]:
        """The results of a frame; one that tells how far others are has none."""
        if frame.header["op"] == UNDER_WAY:
            self._under_way = {found.id: found for found in read_under_way(frame)}
        if frame.header["op"] != RESULTS:
            return []
        results = read_results(frame)
        for result in results:
            self._under_way.pop(result.id, None)
        return results

    def under_way(self) -> Collection[UnderWay]:
        """How far the engine is with requests that it has begun and not answered, about half a second ago."""
        return self._under_way.values()

    def _poll(self, timeout: float) -> None:
        self._sign()
        for key, _ in self._selector.select(timeout):
            link: _Link = key.data
            if not link.read():
                raise self._lost()
        if self._connected is not None and self._supervisor.frames:
            raise self._lost()

    def _sign(self) -> None:
        """Tell the supervisor that we are at work: whoever is silent for long may lose the engine to others."""
        if time.monotonic() - self._signed > _SIGN_S:
            self._signed = time.monotonic()
            self._send(self._supervisor, Frame({"op": HERE}))

    def _send(self, link: _Link, frame: Frame) -> None:
        try:
            send(link.socket, frame)
        except OSError:
            raise self._lost() from None

    def _lost(self) -> ParquetryError:
        """The error to raise, with the reason of the supervisor, who saw the engine die."""
        deadline = time.monotonic() + _REASON_S
        while not self._supervisor.frames and time.monotonic() < deadline:
            self._supervisor.socket.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                if not self._supervisor.read():
                    return EngineLostError(reason="its supervisor went away")
            except TimeoutError:
                break
        said = next((frame.header for frame in self._supervisor.frames), {})
        reason = said.get("reason") or "it closed the connection"
        if said.get("faults") is None:
            return EngineLostError(reason=reason)
        return EngineFaultError(reason=reason, faults=said["faults"])

    def close(self) -> None:
        """Give the engine back. Harmless when called twice."""
        self._selector.close()
        for link in (self._connected, self._supervisor):
            if link is not None:
                link.socket.close()

    def __enter__(self) -> EngineClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Link:
    """A socket and the frames read from it."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.frames: list[Frame] = []
        self._buffer = FrameBuffer()

    def read(self) -> bool:
        """Read once; False when the other side has closed."""
        try:
            frames = receive(self.socket, self._buffer)
        except WireError as error:
            raise EngineLostError(reason=str(error)) from error
        if frames is None:
            return False
        self.frames.extend(frames)
        return True
