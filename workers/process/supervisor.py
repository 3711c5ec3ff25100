"""The supervisor of one device: starts its engine process, watches it, kills it, and tells clients where it listens."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from parquetry.schemas.progress.status import EngineState, EngineStats
from parquetry.schemas.settings import settings
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.process.child import EngineChild, cuda_devices, device_within
from parquetry.workers.process.fault_log import FaultLog
from parquetry.workers.process.messages import ASK
from parquetry.workers.process.wire import Frame, FrameBuffer, WireError, listen, receive, send

log = logging.getLogger(__name__)
_TICK_S = 0.2
_SEND_S = 2.0


class _Client:
    """A shard runner's connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.buffer = FrameBuffer()
        self.has_asked = False
        #: "job/shard" that the engine is asked for, the empty string when it did not say
        self.shard = ""
        #: when it last said anything
        self._heard = time.monotonic()

    def hear(self) -> None:
        self._heard = time.monotonic()

    @property
    def silence_s(self) -> float:
        return time.monotonic() - self._heard

    def tell(self, **header: object) -> None:
        try:
            send(self.connection, Frame(header))
        except OSError:
            # it has gone away; its end of file is about to be read
            pass


@dataclass(frozen=True, eq=False)
class _Ask:
    """A client that waits for an engine with `spec`."""

    client: _Client
    spec: EngineSpec


class EngineSupervisor:
    """Owns one device or one device group, where at most one model is loaded.

    It is exchanged when nobody uses it and another is due. A user that has been silent for as long as a lease lasts,
    since its process is stopped or hangs, does not keep others waiting: its shard is another's by now, or soon.

    Specs of equal weights are served by one process one after the other: it keeps the weights and exchanges its engine.
    Asks are served in order. A dead engine is started again by the next ask. All work is done in one thread, so
    nothing here needs a lock; that thread must live, since the engine is leashed to it.
    """

    def __init__(self, device: str, folder: Path) -> None:
        self.device = device
        self._gpus = cuda_devices(device)
        self._folder = folder
        #: where clients ask
        self.socket = folder / "supervisor.sock"
        self._started = 0
        self._engine: EngineChild | None = None
        #: why the last engine could not be, until another is tried
        self._problem: str | None = None
        self._users: set[_Client] = set()
        self._faults = FaultLog()
        self._asks: deque[_Ask] = deque()
        self._selector = selectors.DefaultSelector()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"supervisor-{device}", daemon=True)

    def start(self) -> None:
        """Listen, and return when clients may connect."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._listener = listen(self.socket)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._thread.start()

    def stop(self) -> None:
        """Kill the engine, drop the clients, and return when both are gone."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def engine_pid(self) -> int | None:
        """Process id of the engine, for status pages and tests."""
        engine = self._engine
        return None if engine is None else engine.pid

    @property
    def engine_stats(self) -> EngineStats | None:
        """What the engine has counted, about a second ago; None while there is none or it is loading."""
        engine = self._engine
        return None if engine is None else engine.stats

    @property
    def engine_state(self) -> EngineState:
        """What the engine is doing now; idle with the reason of the last one's death where there is none."""
        engine = self._engine
        return EngineState(problem=self._problem) if engine is None else engine.state

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                for key, _ in self._selector.select(_TICK_S):
                    key.data()
                self._watch()
                self._answer_asks()
        finally:
            self._close()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(_SEND_S)
        client = _Client(connection)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._read(client))

    def _read(self, client: _Client) -> None:
        try:
            frames = receive(client.connection, client.buffer)
            client.hear()
            for frame in frames or ():
                if frame.header["op"] == ASK:
                    self._ask(client, frame)
        except (WireError, ValidationError, KeyError) as error:
            log.warning("a client of %s does not speak the protocol: %s", self.device, error)
            frames = None
        if frames is None:
            self._drop(client)

    def _ask(self, client: _Client, frame: Frame) -> None:
        if client.has_asked:
            raise WireError("a client asks once")
        client.has_asked = True
        client.shard = str(frame.header.get("shard", ""))
        spec = EngineSpec.model_validate(frame.header["spec"])
        self._asks.append(_Ask(client, spec.model_copy(update={"device": device_within(self.device)})))

    def _drop(self, client: _Client) -> None:
        self._selector.unregister(client.connection)
        client.connection.close()
        self._users.discard(client)
        self._asks = deque(ask for ask in self._asks if ask.client is not client)

    def _watch(self) -> None:
        engine = self._engine
        if engine is None:
            return
        if not engine.read_pulse():
            self._end(engine)
        elif engine.is_outgrown:
            engine.end()
            self._launch(engine.spec)
        elif engine.refusal is not None:
            self._refuse(engine, engine.refusal)
        elif reason := engine.overdue():
            self._end(engine, reason)

    def _end(self, engine: EngineChild, reason: str | None = None) -> None:
        """Kill the engine, which may be dead already, and tell everybody who uses or awaits it.

        Without a `reason` it is the one that the engine gave, or its exit code.
        """
        self._engine, was_ready = None, engine.is_ready
        said = engine.end()
        reason = reason or said
        self._problem = reason
        log.warning("the engine of %s went away: %s", self.device, reason)
        faults = self._faults.note(reason, {user.shard for user in self._users}) if engine.would_repeat else None
        for client in list(self._users):
            client.tell(op="lost", reason=reason, faults=faults)
            self._drop(client)
        if not was_ready:
            self._refuse(engine, reason)

    def _refuse(self, engine: EngineChild, reason: str) -> None:
        for ask in [ask for ask in self._asks if ask.spec.key == engine.spec.key]:
            ask.client.tell(op="failed", reason=reason, permanent=engine.is_refused)
            self._drop(ask.client)

    def _answer_asks(self) -> None:
        """Give the engine to those at the head of the queue who want it as it is; load what the head wants."""
        while self._asks:
            engine = self._engine_for(self._asks[0].spec)
            if engine is None or not engine.is_ready:
                return
            client = self._asks.popleft().client
            self._users.add(client)
            client.tell(op="ready", socket=str(engine.socket))

    def _engine_for(self, spec: EngineSpec) -> EngineChild | None:
        """The engine of `spec`, which may still be loading; None while another one can't be given up for it."""
        engine = self._engine
        if engine is None:
            return self._launch(spec)
        if engine.spec.key == spec.key:
            return engine
        self._evict_silent()
        if self._users:
            return None
        if engine.holds_weights_of(spec):
            return engine if self._switch(engine, spec) else None
        engine.end()
        return self._launch(spec)

    def _evict_silent(self) -> None:
        """Take the engine from users that show no sign of life, now that somebody waits for another one."""
        limit = settings().lease_seconds
        for client in [user for user in self._users if user.silence_s > limit]:
            reason = f"its user, shard {client.shard}, gave no sign of life for {limit:g} s while others waited"
            log.warning("the engine of %s is taken away: %s", self.device, reason)
            client.tell(op="lost", reason=reason)
            self._drop(client)

    def _switch(self, engine: EngineChild, spec: EngineSpec) -> bool:
        """Have the loaded weights serve another spec; False while the engine can't be asked to."""
        if not engine.is_ready and engine.refusal is None:
            # still loading: cheaper to wait for than to begin again
            return False
        log.info("engine %d keeps its weights and takes attention %s", engine.pid, spec.model.attention)
        try:
            engine.switch(spec)
        except OSError:
            # it is dying, which its pulse is about to tell
            return False
        return True

    def _launch(self, spec: EngineSpec) -> EngineChild:
        self._started += 1
        self._problem = None
        socket_path = self._folder / f"engine-{self._started}.sock"
        self._engine = EngineChild(spec, self._gpus, socket_path, self._folder / "engine.log")
        log.info("engine %d loads %s on %s", self._engine.pid, spec.model_path, self.device)
        return self._engine

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.end()
            self._engine = None
        for key in list(self._selector.get_map().values()):
            cast(socket.socket, key.fileobj).close()
        self._selector.close()
        self.socket.unlink(missing_ok=True)
