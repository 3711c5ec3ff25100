"""A log in which a sentence that comes again and again stands once a minute, with how often it came."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from parquetry.tasks.broker.connection import is_passing

#: seconds for which the same sentence is not written again
QUIET_S = 60.0
#: sentences that are remembered; more at once are no repetition
MOST_KNOWN = 256
#: so many characters are compared, which leaves out counts and offsets that end some messages
COMPARED = 120


class RepeatedLines(logging.Filter):
    """To be put on a handler."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        #: sentence -> when it was written last, and how often it came since
        self._known: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be written; one that came more often says so at its end."""
        if record.levelno < logging.WARNING:
            return True
        sentence, now = f"{record.name} {record.getMessage()}"[:COMPARED], self._clock()
        with self._lock:
            written, held_back = self._known.get(sentence, (-QUIET_S, 0))
            if now - written < QUIET_S:
                self._known[sentence] = (written, held_back + 1)
                return False
            self._remember(sentence, now)
        if record.exc_info and isinstance(record.exc_info[1], Exception) and is_passing(record.exc_info[1]):
            # where in a library the refusal came up helps nobody
            record.exc_info = None
        if held_back:
            record.msg, record.args = f"{record.getMessage()} (and {held_back} times more since)", None
        return True

    def _remember(self, sentence: str, now: float) -> None:
        if len(self._known) >= MOST_KNOWN:
            self._known = {known: seen for known, seen in self._known.items() if now - seen[0] < QUIET_S}
        self._known[sentence] = (now, 0)


def hold_back_repetitions() -> None:
    """Put the filter on every handler of this process's log."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(RepeatedLines())
