"""Which client's requests the server gives to a small engine, and what becomes of those that still wait."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from parquetry.workers.encoding.batching.queue import BatchForm, packed_cost
from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.encoding.queued import QueuedEncoder
from parquetry.workers.process.messages import RESULTS, read_results, request_frames
from parquetry.workers.process.server import EngineServer
from parquetry.workers.process.wire import Frame, FrameBuffer, dial, listen, receive, send
from parquetry.workers.request import EncodeRequest, Encoding

#: tokens of a batch, which is all that is sorted together
BUDGET = 10
#: never closed: a server has no end of its own, and its thread would fall over a listener that does not listen
_LISTENERS: list[socket.socket] = []


class SumEngine(QueuedEncoder):
    """Adds up the tokens of a row, from when it is told to begin."""

    def __init__(self) -> None:
        super().__init__(RowLimits(vocab_size=1000), BUDGET, BatchForm(packed_cost, 1))
        self.may_begin = threading.Event()
        #: first token of every row, in the order in which they were computed
        self.order: list[int] = []

    def launch(self, requests: list[EncodeRequest]) -> np.ndarray:
        self.order += [int(request.token_ids[0]) for request in requests]
        return np.array([[request.token_ids.sum()] for request in requests], np.float32)

    def collect(self, handle: np.ndarray) -> np.ndarray:
        return handle

    def step(self) -> list[Encoding]:
        return super().step() if self.may_begin.is_set() else []

    def describe(self) -> dict[str, str]:
        return {"backend": "sums"}


class Client:
    """The other end, as a shard runner holds it."""

    def __init__(self, path: Path) -> None:
        self.socket, self._buffer, self._results = dial(path), FrameBuffer(), []
        self._ids = count()
        self.socket.settimeout(20)

    def submit(self, first_token: int, num_rows: int) -> None:
        """Rows of five tokens, each in a frame of its own; ids go on from the last one."""
        for number in range(num_rows):
            row = EncodeRequest(id=next(self._ids), token_ids=np.full(5, first_token + number, np.int32))
            for frame in request_frames([row]):
                send(self.socket, frame)

    def results(self, num_rows: int) -> dict[int, float]:
        """The sum of each row by its id, once there are so many."""
        while len(self._results) < num_rows:
            frames = receive(self.socket, self._buffer)
            assert frames is not None, "the server hung up"
            for frame in frames:
                self._results += read_results(frame) if frame.header["op"] == RESULTS else []
        return {result.id: float(result.values[0]) for result in self._results}

    def wait_for_the_end(self) -> None:
        """Until the server has hung up."""
        while receive(self.socket, self._buffer) is not None:
            pass


@pytest.fixture
def engine() -> SumEngine:
    return SumEngine()


@pytest.fixture
def server(tmp_path: Path, engine: SumEngine) -> EngineServer:
    """A server of the engine."""
    pulse = SimpleNamespace(send=lambda _: None, loading=lambda: None, ready=lambda: None)
    _LISTENERS.append(listen(tmp_path / "engine.sock"))
    server = EngineServer(_LISTENERS[-1], pulse)
    threading.Thread(target=server.serve, args=(None, lambda _: engine), daemon=True).start()
    return server


@pytest.fixture
def clients(tmp_path: Path, server: EngineServer) -> Iterator[tuple[Client, Client]]:
    """Two of its clients."""
    pair = Client(tmp_path / "engine.sock"), Client(tmp_path / "engine.sock")
    yield pair
    for client in pair:
        client.socket.close()


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look a hundred times a second, for twenty seconds."""
    for _ in range(2000):
        if is_so():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come about")


def wait_until_sated(engine: SumEngine) -> None:
    """Two rows are a batch, and all that the engine takes before it begins."""
    wait_until(lambda: engine.num_unfinished == 2 and not engine.is_hungry)


def test_the_oldest_clients_rows_come_first(
    clients: tuple[Client, Client], server: EngineServer, engine: SumEngine
) -> None:
    first, second = clients
    first.submit(100, 2)
    wait_until_sated(engine)
    second.submit(200, 6)
    wait_until(lambda: server.num_waiting == 6)
    first.submit(102, 6)
    wait_until(lambda: server.num_waiting == 12)
    engine.may_begin.set()

    assert first.results(8) == {number: 5.0 * (100 + number) for number in range(8)}
    assert second.results(6) == {number: 5.0 * (200 + number) for number in range(6)}
    assert set(engine.order[:8]) == set(range(100, 108))
    assert set(engine.order[8:]) == set(range(200, 206))


def test_rows_that_wait_are_cancelled_with_the_others(clients: tuple[Client, Client], engine: SumEngine) -> None:
    first, second = clients
    first.submit(100, 8)
    wait_until_sated(engine)
    send(first.socket, Frame({"op": "cancel", "ids": list(range(8))}))
    wait_until(lambda: engine.num_unfinished == 0)
    second.submit(200, 2)
    engine.may_begin.set()

    assert second.results(2) == {0: 1000.0, 1: 1005.0}
    assert sorted(engine.order) == [200, 201]


def test_a_client_that_leaves_takes_its_rows_along(
    clients: tuple[Client, Client], server: EngineServer, engine: SumEngine
) -> None:
    first, second = clients
    first.submit(100, 8)
    wait_until_sated(engine)
    wait_until(lambda: server.num_waiting == 6)
    first.socket.close()
    wait_until(lambda: engine.num_unfinished == 0)
    second.submit(200, 2)
    engine.may_begin.set()

    assert second.results(2) == {0: 1000.0, 1: 1005.0}
    assert sorted(engine.order) == [200, 201]


def test_nonsense_that_waits_costs_its_sender_the_connection(clients: tuple[Client, Client], engine: SumEngine) -> None:
    first, second = clients
    first.submit(100, 2)
    wait_until_sated(engine)
    send(first.socket, Frame({"op": "submit", "kind": "encode"}, b"no Arrow"))
    second.submit(200, 2)
    engine.may_begin.set()

    first.wait_for_the_end()
    assert second.results(2) == {0: 1000.0, 1: 1005.0}
