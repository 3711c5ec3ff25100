"""The supervisor of one device: starts its engine process, watches it, kills it, and tells clients where it listens."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections import deque
from pathlib import Path

from pydantic import ValidationError

from parquetry.schemas.status import EngineStats
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.process.child import EngineChild, cuda_devices, device_within
from parquetry.workers.process.wire import Frame, FrameBuffer, WireError, listen, receive, send

log = logging.getLogger(__name__)
_TICK_S = 0.2
_SEND_S = 2.0


class _Client:
    """A shard runner that asked for an engine."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.buffer = FrameBuffer()
        self.spec: EngineSpec | None = None

    def tell(self, **header: object) -> None:
        try:
            send(self.connection, Frame(header))
        except OSError:
            # it has gone away; its end of file is about to be read
            pass


class EngineSupervisor:
    """Owns one device or one group. At most one model is loaded; it is switched when nobody uses it and another is due.

    Specs of equal weights are served by one process one after the other: it keeps the weights and exchanges its engine.
    Asks are served in order. A dead engine is started again by the next ask. All work is done in one thread, so
    nothing here needs a lock; that thread must live, since the engine is leashed to it.
    """

    def __init__(self, device: str, folder: Path) -> None:
        self.device = device
        self._gpus = cuda_devices(device)
        self._folder = folder
        #: where clients ask
        self.socket = folder / "slot.sock"
        self._started = 0
        self._engine: EngineChild | None = None
        self._holders: set[_Client] = set()
        self._waiting: deque[_Client] = deque()
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

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                for key, _ in self._selector.select(_TICK_S):
                    key.data()
                self._watch()
                self._serve()
        finally:
            self._shut()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(_SEND_S)
        client = _Client(connection)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._read(client))

    def _read(self, client: _Client) -> None:
        try:
            frames = receive(client.connection, client.buffer)
            for frame in frames or ():
                self._ask(client, frame)
        except (WireError, ValidationError, KeyError) as error:
            log.warning("a client of %s does not speak the protocol: %s", self.device, error)
            frames = None
        if frames is None:
            self._drop(client)

    def _ask(self, client: _Client, frame: Frame) -> None:
        if client.spec is not None:
            raise WireError("a client asks once")
        spec = EngineSpec.model_validate(frame.header["spec"])
        client.spec = spec.model_copy(update={"device": device_within(self.device)})
        self._waiting.append(client)

    def _drop(self, client: _Client) -> None:
        self._selector.unregister(client.connection)
        client.connection.close()
        self._holders.discard(client)
        if client in self._waiting:
            self._waiting.remove(client)

    def _watch(self) -> None:
        engine = self._engine
        if engine is None:
            return
        if not engine.read_pulse():
            self._engine_ended(None)
        elif engine.is_outgrown:
            engine.end()
            self._launch(engine.spec)
        elif engine.refusal is not None:
            self._refuse(engine, engine.refusal)
        elif reason := engine.overdue():
            self._engine_ended(reason)

    def _engine_ended(self, reason: str | None) -> None:
        """The engine died or must die: everybody who uses or awaits it is told."""
        engine, self._engine = self._engine, None
        was_ready = engine.is_ready
        said = engine.end()
        reason = reason or said
        log.warning("the engine of %s went away: %s", self.device, reason)
        for client in list(self._holders):
            client.tell(op="lost", reason=reason)
            self._drop(client)
        if not was_ready:
            self._refuse(engine, reason)

    def _refuse(self, engine: EngineChild, reason: str) -> None:
        for client in [client for client in self._waiting if client.spec.key == engine.spec.key]:
            client.tell(op="failed", reason=reason, permanent=engine.is_refused)
            self._drop(client)

    def _serve(self) -> None:
        """Let in those at the head of the queue who want what is loaded; load what the head wants."""
        while self._waiting:
            wanted = self._waiting[0].spec
            if self._needs_other(wanted) and (self._holders or not self._make_way(wanted)):
                return
            if self._engine is None:
                self._launch(wanted)
            if not self._engine.is_ready:
                return
            self._let_in(self._waiting.popleft())

    def _needs_other(self, wanted: EngineSpec) -> bool:
        return self._engine is not None and self._engine.spec.key != wanted.key

    def _make_way(self, wanted: EngineSpec) -> bool:
        """Have the loaded weights serve another spec, or let them go; False while that cannot be decided."""
        engine = self._engine
        if not engine.holds_weights_of(wanted):
            engine.end()
            self._engine = None
            return True
        if not engine.is_ready and engine.refusal is None:
            # still loading: cheaper to wait for than to begin again
            return False
        log.info("engine %d keeps its weights and takes attention %s", engine.pid, wanted.model.attention)
        try:
            engine.switch(wanted)
        except OSError:
            # it is dying, which its pulse is about to tell
            return False
        return True

    def _launch(self, spec: EngineSpec) -> None:
        self._started += 1
        socket_path = self._folder / f"engine-{self._started}.sock"
        self._engine = EngineChild(spec, self._gpus, socket_path, self._folder / "engine.log")
        log.info("engine %d loads %s on %s", self._engine.pid, spec.model_path, self.device)

    def _let_in(self, client: _Client) -> None:
        self._holders.add(client)
        client.tell(op="ready", socket=str(self._engine.socket))

    def _shut(self) -> None:
        if self._engine is not None:
            self._engine.end()
            self._engine = None
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()
        self.socket.unlink(missing_ok=True)
