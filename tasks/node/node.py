"""The process tree of `parquetry worker`: per device a supervisor with its engine, and one Celery worker."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from parquetry.schemas import __version__
from parquetry.schemas.errors import BrokerRefusedError, BrokerUnreachableError, ExitCode
from parquetry.schemas.log_lines import log_to
from parquetry.schemas.settings import settings
from parquetry.tasks.broker.waiting import wait_for_broker
from parquetry.tasks.ledger.claim import LeaseProgress
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.messenger import Chore, Messenger
from parquetry.tasks.node.device_worker import DeviceWorker
from parquetry.tasks.node.devices import devices
from parquetry.tasks.node.repeated_lines import hold_back_repetitions
from parquetry.tasks.node.stop_signal import StopSignal
from parquetry.tasks.node.work_line import WorkLine
from parquetry.tasks.reconciler import Reconciler
from parquetry.workers.process.owned_folder import NODE_PREFIX, owned_folder

log = logging.getLogger(__name__)
TICK_S = 0.2
#: how often a node says that its workers live
ANNOUNCE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """What one node serves, and with what."""

    broker_url: str
    #: None takes every visible GPU; () none
    gpus: tuple[str, ...] | None = None
    gpus_per_engine: int = 1
    #: engines on the CPU; None takes one where there is no GPU
    cpu_engines: int | None = None
    queues: tuple[str, ...] = ("default",)
    shards_in_flight: int = 2
    #: seconds to wait for a broker that can't be reached at the start; None for ever
    broker_wait_s: float | None = None


def run_node(options: NodeOptions, chores: Sequence[Chore] = ()) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal kills. Returns the exit code.

    `chores` are done beside that, every few seconds.
    The broker is waited for. Raises BrokerUnreachableError when it does not come in time at the start, and
    BrokerRefusedError for one that waiting does not mend.
    """
    log_to(sys.stderr)
    hold_back_repetitions()
    names = devices(options.gpus, options.gpus_per_engine, options.cpu_engines)
    # for sockets: the state folder's path may be too long for one
    with owned_folder(NODE_PREFIX) as folder, StopSignal() as stop:
        client = wait_for_broker(options.broker_url, options.broker_wait_s, stop)
        if client is None:
            return ExitCode.DONE
        ledger = Ledger(client, settings().env)
        workers = [_device_worker(options, device, folder / str(i)) for i, device in enumerate(names)]
        _greet(options, ledger, workers)
        Node(ledger, options, workers, stop, chores).run()
    return ExitCode.DONE


def _greet(options: NodeOptions, ledger: Ledger, workers: Sequence[DeviceWorker]) -> None:
    """All that is worth knowing of a start, in one piece."""
    log.info(
        "parquetry %s serving %s: queue %s of %s, environment %s, %d shards in flight each, %g s to drain",
        *(__version__, ", ".join(worker.device for worker in workers), ",".join(options.queues), ledger.url),
        *(ledger.env, options.shards_in_flight, settings().drain_seconds),
    )
    for sentence in ledger.durability_warnings():
        log.warning("%s", sentence)


def _device_worker(options: NodeOptions, device: str, folder: Path) -> DeviceWorker:
    return DeviceWorker(
        device=device,
        folder=folder,
        url=options.broker_url,
        queues=options.queues,
        shards_in_flight=options.shards_in_flight,
        # unique for ever: a node that comes back must not inherit the leases of the one before
        name=f"{socket.gethostname()}-{os.getpid()}-{folder.name}-{uuid.uuid4().hex[:6]}",
    )


class Node:
    """Starts the workers of one machine, restarts those that die, and announces the living."""

    def __init__(
        self,
        ledger: Ledger,
        options: NodeOptions,
        workers: list[DeviceWorker],
        stop: StopSignal,
        chores: Sequence[Chore] = (),
    ) -> None:
        self._ledger = ledger
        self._workers = workers
        self._stop = stop
        self._reconciler = Reconciler(ledger, options.broker_url, settings().reconcile_seconds)
        self._messenger = Messenger(ledger, settings().reconcile_seconds, chores)
        self._work_line = WorkLine([worker.name for worker in workers])
        self._announced = float("-inf")

    def run(self) -> None:
        """Returns when everything this node started is gone."""
        with ExitStack() as stack:
            for worker in self._workers:
                stack.callback(worker.kill)
                worker.start()
            self._reconciler.start()
            stack.callback(self._reconciler.stop)
            self._messenger.start()
            stack.callback(self._messenger.stop)
            self._watch()
            self._drain()

    def _watch(self) -> None:
        while not self._stop.wait(TICK_S):
            for worker in self._workers:
                worker.revive()
            is_due = time.monotonic() - self._announced >= ANNOUNCE_S
            if is_due or any(worker.has_news for worker in self._workers):
                self._announced = time.monotonic()
                self._unless_unreachable(self._announce)

    def _announce(self) -> None:
        for worker in self._workers:
            worker.give_back_orphans(self._ledger)
            if worker.is_alive or worker.is_drained:
                worker.announce(self._ledger)
                worker.watch(self._ledger)
        self._work_line.tell_if_due(self._ledger)

    def _drain(self) -> None:
        """Take no more permits, give running shards their time, then give back what is left."""
        log.info("draining: running shards have %g s", settings().drain_seconds)
        for worker in self._workers:
            worker.drain()
        deadline = time.monotonic() + settings().drain_seconds
        while any(worker.is_alive for worker in self._workers) and time.monotonic() < deadline:
            time.sleep(TICK_S)
        for worker in self._workers:
            worker.kill()
        self._unless_unreachable(self._give_back)

    def _give_back(self) -> None:
        for worker in self._workers:
            for claim in self._ledger.holdings(worker.name):
                told = self._ledger.told(claim)
                self._ledger.release(claim)
                log.info("job %s: shard %d is given back: %s", claim.job, claim.shard, _in_flight(told))
            self._ledger.roster.retire(worker.name)

    def _unless_unreachable(self, action: Callable[[], None]) -> None:
        """Run it, and only warn when the broker can't be reached or refuses: leases end by themselves then."""
        try:
            action()
        except (BrokerUnreachableError, BrokerRefusedError) as error:
            log.warning("%s", error)


def _in_flight(told: LeaseProgress) -> str:
    """What a shard that is given back had computed at its last beat."""
    unfinished = told.computed_prompt_tokens + told.computed_output_tokens - told.prompt_tokens - told.output_tokens
    return f"{told.rows:,} finished rows, and {max(0, unfinished):,} tokens of unfinished rows, which are dropped"
