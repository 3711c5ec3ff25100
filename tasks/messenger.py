"""Tells webhooks and hooks what happens to jobs, beside whatever else a process does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from parquetry.schemas.errors import ParquetryError
from parquetry.tasks.hooks import run_due_hooks
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.webhooks import deliver_due

log = logging.getLogger(__name__)
Chore = Callable[[Ledger], object]


class Messenger:
    """A thread that tells what is due; slow receivers hold up nothing else."""

    def __init__(self, ledger: Ledger, interval_s: float, chores: Sequence[Chore] = ()) -> None:
        """`chores` are done before every delivery: they find out what there is to tell."""
        self._ledger, self._interval_s = ledger, interval_s
        self._chores = (*chores, deliver_due, run_due_hooks)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="messenger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; a delivery under way is not waited for, and will be repeated."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            for chore in self._chores:
                self._do(chore)

    def _do(self, chore: Chore) -> None:
        try:
            chore(self._ledger)
        except ParquetryError as error:
            log.warning("%s", error)
        # one notice that cannot be read must not keep the others
        except Exception:
            log.exception("notices could not be delivered")
