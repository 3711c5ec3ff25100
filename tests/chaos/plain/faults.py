"""The faults a plain Celery job is put through: the recipes of our own cases, on the same kind of server."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.plain.fleet import PlainFleet, PlainOutcome
from tests.chaos.process import signal_all, wait_until

#: seconds without any change after which a missing shard counts as lost; far beyond VISIBILITY_S
QUIET_S = 9.0
#: how long a message may stay unacknowledged in the runs that are given a short visibility timeout
VISIBILITY_S = 4.0


def kill_workers(folder: Path, late: bool, seed: int) -> PlainOutcome:
    """T1: kill -9 a random worker, four times, and start another one."""
    fleet = PlainFleet(folder, late=late, shards=24, ms_per_row=30, visibility_s=VISIBILITY_S)
    draw, workers = random.Random(seed), [fleet.start_worker(), fleet.start_worker()]
    fleet.submit()
    for _ in range(4):
        time.sleep(draw.uniform(0.5, 1.0))
        workers.pop(draw.randrange(2)).kill()
        workers.append(fleet.start_worker())
    return _end(fleet)


def drain(folder: Path, late: bool, seed: int) -> PlainOutcome:
    """T3: SIGTERM with a grace of two seconds to a worker whose shard takes four, as an orchestrator does."""
    fleet = PlainFleet(folder, late=late, shards=2, ms_per_row=400, visibility_s=VISIBILITY_S * 2)
    worker = fleet.start_worker()
    fleet.submit()
    wait_until(lambda: fleet.started == 1, 20.0, "a start")
    worker.stop(2.0)
    fleet.start_worker()
    return _end(fleet)


def kill_in_brpop(folder: Path, late: bool, seed: int) -> PlainOutcome:
    """T4: three times, stop an idle worker, publish, and kill it."""
    fleet = PlainFleet(folder, late=late, shards=3, ms_per_row=1, visibility_s=VISIBILITY_S)
    for shard in range(3):
        worker = fleet.start_worker()
        fleet.server.wait_for_brpop()
        worker.freeze()
        fleet.submit(shard, shard + 1)
        time.sleep(0.1)
        worker.kill()
    fleet.start_worker()
    return _end(fleet)


def outlast_visibility(folder: Path, late: bool, seed: int) -> PlainOutcome:
    """T5: a shard twice as long as the visibility timeout."""
    fleet = PlainFleet(folder, late=late, shards=2, ms_per_row=VISIBILITY_S * 200, visibility_s=VISIBILITY_S)
    for _ in range(2):
        fleet.start_worker()
    fleet.submit()
    return _end(fleet)


def cut_connections(folder: Path, late: bool, seed: int) -> PlainOutcome:
    """T6: CLIENT KILL of every connection, six times, while shards run. One worker is idle."""
    fleet = PlainFleet(folder, late=late, shards=4, ms_per_row=250)
    for _ in range(3):
        fleet.start_worker()
    fleet.submit()
    for _ in range(6):
        time.sleep(0.8)
        fleet.server.cut_clients()
    return _end(fleet)


def kill_pool_child(folder: Path, late: bool, seed: int) -> PlainOutcome:
    """T8: two rows of twenty shards kill the process that computes them, once each."""
    fleet = PlainFleet(folder, late=late, shards=20, ms_per_row=5, spells={33: "KILL", 101: "KILL"})
    fleet.start_worker()
    fleet.submit()
    return _end(fleet)


def restart_redis(folder: Path, late: bool, seed: int) -> PlainOutcome:
    """T9: SIGKILL Redis with an append-only file three times, each time starting it again."""
    fleet = PlainFleet(folder, late=late, shards=20, ms_per_row=40, visibility_s=VISIBILITY_S)
    for _ in range(2):
        fleet.start_worker()
    fleet.submit()
    for _ in range(3):
        time.sleep(1.2)
        fleet.server.kill()
        fleet.server.start()
    return _end(fleet)


def lose_redis(folder: Path, late: bool, seed: int) -> PlainOutcome:
    """T9: FLUSHALL in the middle of the job."""
    fleet = PlainFleet(folder, late=late, shards=21, ms_per_row=30, visibility_s=VISIBILITY_S)
    fleet.start_worker()
    fleet.submit()
    wait_until(lambda: fleet.finished >= 3, 20.0, "three parts")
    fleet.server.client().flushall()
    return _end(fleet)


def kill_everything(folder: Path, late: bool, seed: int) -> PlainOutcome:
    """Everything is killed at once, Redis keeps nothing; then all is started again."""
    fleet = PlainFleet(folder, late=late, shards=21, ms_per_row=30, visibility_s=VISIBILITY_S, persistent=False)
    workers = [fleet.start_worker(), fleet.start_worker()]
    fleet.submit()
    wait_until(lambda: fleet.finished >= 4, 20.0, "four parts")
    for worker in workers:
        signal_all(worker.freeze(), signal.SIGKILL)
    fleet.server.kill()
    fleet.server.start()
    fleet.start_worker()
    return _end(fleet)


def _end(fleet: PlainFleet) -> PlainOutcome:
    fleet.settle(QUIET_S)
    fleet.stop()
    return fleet.outcome()


FAULTS: dict[str, Callable[[Path, bool, int], PlainOutcome]] = {
    "T1": kill_workers,
    "T3": drain,
    "T4": kill_in_brpop,
    "T5": outlast_visibility,
    "T6": cut_connections,
    "T8": kill_pool_child,
    "T9": restart_redis,
    "T9 flush": lose_redis,
    "everything": kill_everything,
}
