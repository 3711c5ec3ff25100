"""The steps that rank 0 sends to the other ranks, over a pipe to each."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

_IDLE_S = 1.0


class StepSender:
    """Rank 0's ends of the pipes."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self._connections = list(connections)

    def send(self, message: object) -> None:
        """Every other rank gets `message`. Raises OSError when one has gone away."""
        data = pickle.dumps(message, protocol=5)
        for connection in self._connections:
            connection.send_bytes(data)

    def close(self) -> None:
        """Every other rank's `receive` returns None from now on."""
        for connection in self._connections:
            connection.close()


class StepReceiver:
    """Another rank's end of its pipe. `send_pulse` is called each second while it waits, and at every message."""

    def __init__(self, connection: Connection, send_pulse: Callable[[], None]) -> None:
        self._connection = connection
        self._send_pulse = send_pulse

    def receive(self) -> Any:
        """The next message, None when rank 0 has closed its end."""
        try:
            while not self._connection.poll(_IDLE_S):
                self._send_pulse()
            self._send_pulse()
            # it comes from the process that started this one, over a pipe nobody else has
            return pickle.loads(self._connection.recv_bytes())  # noqa: S301
        except (EOFError, ConnectionResetError):
            return None
