import itertools

from parquetry.monitor.watcher import HISTORY_S, WORKERS_S, Watcher
from parquetry.schemas.progress.states import JobState
from tests.unit.monitor.made_statuses import busy_job, busy_worker
from tests.unit.monitor.progress.test_progress import point, status_at


class Ledger:
    """Counts what it is asked."""

    def __init__(self, history=()):
        self.asked, self.points = [], tuple(history)

    def workers(self):
        self.asked.append("workers")
        return [busy_worker()]

    def history(self, job):
        self.asked.append("history")
        return self.points


def test_what_changes_slowly_is_asked_for_now_and_then():
    now, ledger = [0.0], Ledger()
    watcher = Watcher(ledger, clock=lambda: now[0])
    while now[0] < HISTORY_S:
        watcher.view(busy_job())
        now[0] += 0.25
    assert ledger.asked.count("history") == 1
    assert ledger.asked.count("workers") == HISTORY_S / WORKERS_S
    watcher.view(busy_job(state=JobState.DONE))
    assert ledger.asked[-2:] == ["workers", "history"]


def test_the_time_left_does_not_grow_while_the_next_beat_is_waited_for():
    """Beats every four seconds, looks every half: nothing changes between beats but the clock."""
    now, ledger = [0.0], Ledger(point(at, 2 * at) for at in range(0, 101, 2))
    watcher = Watcher(ledger, clock=lambda: now[0])
    left = []
    for look in range(80):
        now[0] = 0.1 * look
        beat = 100 + look * 0.5 // 4 * 4
        told = point(beat, 2 * beat)
        at = 100 + look * 0.5
        status = status_at(told, now=1000 + at, active_seconds=at, worker_seconds=at)
        left.append(watcher.view(status).progress.eta_s)
    steps = [later - earlier for earlier, later in itertools.pairwise(left)]
    assert max(steps) < 3
    assert sum(steps) < -35
