"""One device of a node: the supervisor of its engine, and the Celery worker whose children feed it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import time
from collections import deque
from pathlib import Path

from parquetry.schemas.progress.status import EngineState, EngineStats
from parquetry.schemas.settings import settings
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.node.noted_claims import orphans
from parquetry.tasks.node.stall_check import STALL_S, StallCheck
from parquetry.workers.engine_needs import installed
from parquetry.workers.gpu_meter import GpuMeter, offered_by
from parquetry.workers.process.leash import leashed
from parquetry.workers.process.start import module_command
from parquetry.workers.process.supervisor import EngineSupervisor
from parquetry.workers.worker_kind import kind_of

log = logging.getLogger(__name__)
#: pause before a Celery worker that died is started again; doubled each time, until one lives this long
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
KILL_WAIT_S = 5.0
#: of the processes that run shards for a card: where cores are short its engine goes first, for a card that waits costs
#: more than a tokenizer that does
CARD_NICENESS = 5
#: rates of an engine are those of its last so many seconds
RATES_S = 10.0


def _told(state: EngineState) -> tuple[object, ...]:
    """What is worth an announcement of its own as soon as it changes."""
    return state.phase, state.model, state.problem


class DeviceWorker:
    """To be started and stopped from the node's main thread: its processes are killed when that thread ends."""

    def __init__(
        self, *, device: str, folder: Path, url: str, queues: tuple[str, ...], shards_in_flight: int, name: str
    ) -> None:
        self.device = device
        self.name = name
        self._folder = folder
        self._url = url
        self._queues = queues
        self._shards_in_flight = shards_in_flight
        self._supervisor = EngineSupervisor(device, folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._stall_check = StallCheck(name, queues, shards_in_flight)
        self._announced: object = None
        #: it is asked to take no more shards: its Celery worker ends with those it has, and is not started again
        self.is_drained = False
        #: counts of its engine that were announced lately
        self._counted: deque[EngineStats] = deque()
        self._gpus = GpuMeter.of(device)
        self._offers = None if settings().engine_factory else (*installed(), *offered_by(device))
        self._kind = kind_of(device, self._offers)

    def start(self) -> None:
        self._supervisor.start()
        self._launch()

    @property
    def is_alive(self) -> bool:
        return self._running() is not None

    def _running(self) -> subprocess.Popen[bytes] | None:
        """The Celery worker while it lives."""
        process = self._process
        return process if process is not None and process.poll() is None else None

    def revive(self) -> None:
        """Start the Celery worker again when it has died, but not in a tight loop."""
        if self.is_alive or self.is_drained:
            return
        age = time.monotonic() - self._started
        if age > STEADY_S:
            self._pause_s = FIRST_PAUSE_S
        if age > self._pause_s:
            code = self._process.returncode if self._process is not None else None
            log.error("the worker of %s ended with code %s; starting it again", self.device, code)
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            self._launch()

    def watch(self, ledger: Ledger) -> None:
        """Kill a Celery worker that lives but serves nothing; `revive` starts another."""
        process = self._running()
        if process is not None and self._stall_check.is_stalled(ledger):
            log.error("the worker of %s has left permits unclaimed for %g s; starting it again", self.device, STALL_S)
            self._stall_check.reset()
            process.kill()

    def announce(self, ledger: Ledger) -> None:
        """Tell the ledger that this worker lives."""
        state, stats = self._supervisor.engine_state, self._supervisor.engine_stats
        self._announced = _told(state)
        wanted = ledger.roster.announce(
            self.name,
            host=socket.gethostname(),
            device=self.device,
            queues=self._queues,
            shards_in_flight=self._shards_in_flight,
            engine=stats,
            engine_before=self._before(stats),
            state=state,
            offers=self._offers,
            device_use=None if self._gpus is None else self._gpus.use,
            kind=self._kind,
        )
        if wanted != self.is_drained:
            self._heed(drain=wanted)

    def _heed(self, *, drain: bool) -> None:
        """Do what an operator asked for at the page."""
        self.is_drained = drain
        if drain:
            log.info("the worker of %s is drained: it takes no more shards", self.device)
            self.drain()
        elif not self.is_alive:
            log.info("the worker of %s goes on", self.device)
            self._launch()

    def _before(self, stats: EngineStats | None) -> EngineStats | None:
        """What the same engine had counted about RATES_S earlier; None where there is no such count."""
        if stats is None or (self._counted and stats.seconds < self._counted[-1].seconds):
            self._counted.clear()
        while len(self._counted) > 1 and stats is not None and stats.seconds - self._counted[1].seconds >= RATES_S:
            self._counted.popleft()
        found = self._counted[0] if self._counted else None
        if stats is not None:
            self._counted.append(stats)
        return found

    @property
    def has_news(self) -> bool:
        """Whether its engine is in another phase than was announced."""
        return self.is_alive and _told(self._supervisor.engine_state) != self._announced

    def give_back_orphans(self, ledger: Ledger) -> None:
        """Release the shards of child processes that died, instead of waiting for their leases to end."""
        for note, claim in orphans(self._folder / "claims"):
            log.error("job %s shard %d: the process that ran it died", claim.job, claim.shard)
            ledger.lose(claim, "the process that ran it died")
            note.unlink(missing_ok=True)

    def drain(self) -> None:
        """Celery's warm shutdown: no more permits, and an end when the running shards have ended.

        Not Celery's soft shutdown, which always waits its whole time: the node decides how long a shard may take.
        """
        if process := self._running():
            process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the Celery worker, its children and the engine; returns when they are gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(KILL_WAIT_S)
        self._supervisor.stop()

    def _launch(self) -> None:
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            leashed(self._command()),
            stdin=subprocess.DEVNULL,
            # a Ctrl-C at the terminal must reach the node only, which stops things in order
            start_new_session=True,
            env=self._environment(),
        )

    def _command(self) -> list[str]:
        return [
            *module_command("parquetry.tasks.node.celery_main", "--worker", self.name),
            *("--queues", ",".join(self._queues), "--shards-in-flight", str(self._shards_in_flight)),
            *("--socket", str(self._supervisor.socket)),
            *("--niceness", str(CARD_NICENESS if self.device.startswith("cuda") else 0)),
        ]

    def _environment(self) -> dict[str, str]:
        # the URL may hold a password, which a command line would show to everybody on the machine
        # what its pool leaves in the temporary folder goes with ours
        return {**os.environ, "PARQUETRY_BROKER_URL": self._url, "TMPDIR": str(self._folder)}
