"""Shares one engine among several connections: one thread drives it, the others only move frames."""

from __future__ import annotations

import gc
import queue
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from typing import TypeVar

from parquetry.schemas.errors import OtherWeightsError, PermanentError
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.process.messages import SUBMIT, SWITCH, read_requests, result_frames
from parquetry.workers.process.meter import Meter
from parquetry.workers.process.pulse import Pulse
from parquetry.workers.process.telling import Telling
from parquetry.workers.process.wire import Frame, FrameBuffer, WireError, pack_frame, receive
from parquetry.workers.request import Request, Result

_IDLE_S = 0.5
T = TypeVar("T", Request, Result)


class _Connection:
    """One client. Its reader fills the queue of incoming frames; its writer empties a queue of its own."""

    def __init__(self, connection: socket.socket, incoming: queue.SimpleQueue) -> None:
        self.socket = connection
        self._incoming = incoming
        self._outgoing: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        #: engine id of each unfinished request, by the client's own id
        self.engine_ids: dict[int, int] = {}
        #: set when the engine it was let in to is gone
        self.is_late = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._write, daemon=True).start()

    def send(self, frame: Frame) -> None:
        self._outgoing.put(frame)

    def close(self) -> None:
        self._outgoing.put(None)
        # wakes the reader too
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _read(self) -> None:
        buffer = FrameBuffer()
        try:
            while (frames := receive(self.socket, buffer)) is not None:
                for frame in frames:
                    self._incoming.put((self, frame))
        except (WireError, OSError):
            pass
        self._incoming.put((self, None))

    def _write(self) -> None:
        try:
            while (frame := self._outgoing.get()) is not None:
                self.socket.sendall(pack_frame(frame))
        except OSError:
            # the reader sees the same end and reports it
            pass
        # a descriptor that the reader still waits on must not be closed, or it becomes another client's
        self._reader.join()
        self.socket.close()


class EngineServer:
    """Serves an engine on a listening socket."""

    def __init__(self, listener: socket.socket, pulse: Pulse) -> None:
        self._listener = listener
        self._pulse = pulse
        self._engine: Engine | None = None
        self._meter: Meter | None = None
        self._incoming: queue.SimpleQueue[tuple[_Connection, Frame | None]] = queue.SimpleQueue()
        #: frames of requests that the engine was not given yet, by client in the order in which they came with requests
        self._waiting: dict[_Connection, deque[Frame]] = {}
        self._owners: dict[int, tuple[_Connection, int]] = {}
        self._connections: set[_Connection] = set()
        #: through which the supervisor asks for other engines
        self._control: _Connection | None = None
        self._next_id = 0
        self._telling = Telling()
        #: the spec to exchange the engine for, once the step that is being computed is over
        self._wanted: EngineSpec | None = None

    @property
    def num_waiting(self) -> int:
        """Frames of requests that the engine has not been given yet."""
        return sum(map(len, self._waiting.values()))

    def attend(self) -> None:
        """Show a sign of life and take in what clients sent. Engines call it between the layers of long work."""
        engine = self._engine
        self._pulse.send(None if self._meter is None else self._meter.read)
        if engine is not None:
            self._take_all()
            self._feed(engine)
            self._telling.tell(engine.under_way, self._owners)

    def serve(self, spec: EngineSpec, build: Callable[[EngineSpec], Engine]) -> None:
        """Drive the engine of `spec`, and of those asked for after it; does not return."""
        self._pulse.loading()
        self._start(build(spec))
        threading.Thread(target=self._accept, daemon=True).start()
        while True:
            if not self._has_work:
                self._take_one(_IDLE_S)
            self.attend()
            if self._wanted is not None:
                self._exchange(self._wanted, build)
            elif self._engine is not None and self._meter is not None and self._engine.num_unfinished:
                self._deliver(self._meter.step())

    @property
    def _has_work(self) -> bool:
        return self._engine is not None and bool(self._engine.num_unfinished or any(self._waiting.values()))

    def _start(self, engine: Engine) -> None:
        # requests come and go by the thousand; each collection would look through the model and its libraries again
        gc.collect()
        gc.freeze()
        self._engine, self._meter = engine, Meter(engine)
        self._pulse.ready()

    def _exchange(self, spec: EngineSpec, build: Callable[[EngineSpec], Engine]) -> None:
        """Replace this engine by another; those who used this one have left, or it was taken from them."""
        self._wanted = None
        if self._engine is not None:
            self._engine.cancel(list(self._owners))
            self._owners.clear()
            self._waiting.clear()
        # one that wakes up late must not hand its requests to the engine of others
        for connection in list(self._connections):
            connection.is_late = connection is not self._control
            connection.engine_ids.clear()
        # from here on there is none to hand requests to
        self._engine = self._meter = None
        # what is frozen is never freed
        gc.unfreeze()
        try:
            self._start(build(spec))
        except OtherWeightsError as error:
            self._pulse.outgrown(str(error))
        except PermanentError as error:
            self._pulse.refused(str(error))

    def _accept(self) -> None:
        while True:
            connection = _Connection(self._listener.accept()[0], self._incoming)
            self._connections.add(connection)
            connection.send(Frame({"op": "hello", "describe": self._description()}))

    def _description(self) -> dict[str, str]:
        """The engine's own; nothing while it is exchanged, when nobody is let in who would read it."""
        engine = self._engine
        return {} if engine is None else {**engine.describe(), **engine.provenance_notes}

    def _take_one(self, timeout: float) -> None:
        try:
            self._take(*self._incoming.get(timeout=timeout))
        except queue.Empty:
            pass

    def _take_all(self) -> None:
        while not self._incoming.empty():
            self._take_one(0.0)

    def _take(self, connection: _Connection, frame: Frame | None) -> None:
        if frame is None:
            self._connections.discard(connection)
            self._waiting.pop(connection, None)
            self._telling.forget(connection)
            self._cancel(connection, list(connection.engine_ids))
            connection.close()
            return
        try:
            self._obey(connection, frame)
        except (WireError, KeyError, TypeError, ValueError):
            # a client that sends nonsense is dropped; the engine goes on for the others
            connection.close()

    def _obey(self, connection: _Connection, frame: Frame) -> None:
        if frame.header["op"] == SWITCH:
            self._control, self._wanted = connection, EngineSpec.model_validate(frame.header["spec"])
        elif self._engine is None or connection.is_late:
            raise WireError("there is no engine for it now")
        elif frame.header["op"] == SUBMIT:
            self._waiting.setdefault(connection, deque()).append(frame)
        elif frame.header["op"] == "cancel":
            while frames := self._waiting.get(connection):
                self._hand_over(self._engine, connection, frames.popleft())
            self._cancel(connection, frame.header["ids"])

    def _feed(self, engine: Engine) -> None:
        """Give the engine what it has use for, the oldest client's requests first.

        Shards so end one after the other: while one is closed and the next is opened, others' rows are computed.
        """
        for connection, frames in list(self._waiting.items()):
            while frames and engine.is_hungry:
                self._hand_over(engine, connection, frames.popleft())

    def _hand_over(self, engine: Engine, connection: _Connection, frame: Frame) -> None:
        try:
            engine.add([self._renumber(connection, request) for request in read_requests(frame)])
        except (WireError, KeyError, TypeError, ValueError):
            self._waiting.pop(connection, deque()).clear()
            connection.close()

    def _renumber(self, connection: _Connection, request: Request) -> Request:
        """The request under an id that is unique in the engine."""
        self._next_id += 1
        self._owners[self._next_id] = (connection, request.id)
        connection.engine_ids[request.id] = self._next_id
        return _renumbered(request, self._next_id)

    def _cancel(self, connection: _Connection, ids: list[int]) -> None:
        found = [connection.engine_ids.pop(id) for id in ids if id in connection.engine_ids]
        for id in found:
            self._owners.pop(id, None)
        if self._engine is not None:
            self._engine.cancel(found)

    def _deliver(self, results: list[Result]) -> None:
        by_connection: dict[_Connection, list[Result]] = defaultdict(list)
        for result in results:
            owner = self._owners.pop(result.id, None)
            if owner is not None:
                connection, id = owner
                del connection.engine_ids[id]
                by_connection[connection].append(_renumbered(result, id))
        for connection, mine in by_connection.items():
            for frame in result_frames(mine):
                connection.send(frame)


def _renumbered(item: T, id: int) -> T:
    """The item under another id. Nobody else holds it, so it need not be copied, which would cost more than reading."""
    object.__setattr__(item, "id", id)
    return item
