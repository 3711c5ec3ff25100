"""What the process that renders may take: processor time for each row, memory, and no file, child or socket at all."""

from __future__ import annotations

import codecs
import importlib
import os
import resource
import signal
import sys
from contextlib import suppress

#: processor seconds of one row, and of parsing a template, after which the kernel kills the process
RENDER_CPU_S = 0.6
PARSE_CPU_S = 0.8
#: bytes of memory that rendering may take beside what holds the rows
RENDER_BYTES = 160 << 20
#: a row gets a timer of its own when the running one is older than this: a system call for each row would cost more
_FRESH_S = 0.05
_UNLIMITED = resource.RLIM_INFINITY
#: modules and codecs that Jinja and Python load only where a template comes to them, when no file can be opened
_LATE = ("jinja2.debug", "pprint", "html", "textwrap", "traceback", "linecache", "unicodedata")
_LATE_CODECS = ("ascii", "latin-1", "utf-8", "utf-16", "utf-32", "unicode_escape", "cp1252", "punycode", "idna")


class Limits:
    """The limits of this process, which is to call `confine` once it has loaded all that it needs."""

    def __init__(self) -> None:
        self._armed_at = 0.0
        self._statm = os.open("/proc/self/statm", os.O_RDONLY) if sys.platform == "linux" else None

    def confine(self) -> None:
        """No file, socket, process or core dump from here on; an interrupt at the terminal is the parent's to take."""
        for name in _LATE:
            importlib.import_module(name)
        for name in _LATE_CODECS:
            codecs.lookup(name)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
            # where a name is known but not lowered, the others still hold
            with suppress(OSError, ValueError):
                resource.setrlimit(kind, (0, 0))

    def begin(self, cpu_s: float, now: float) -> None:
        """Bound memory, and the processor time of what comes first; `now` is of time.monotonic."""
        if self._statm is not None:
            pages = int(os.pread(self._statm, 64, 0).split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + RENDER_BYTES, _UNLIMITED))
        self._arm(cpu_s, now)

    def row(self, now: float) -> None:
        """Another row begins."""
        if now - self._armed_at > _FRESH_S:
            self._arm(RENDER_CPU_S, now)

    def end(self) -> None:
        """Nothing of a template runs: rows may be received."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (_UNLIMITED, _UNLIMITED))

    def _arm(self, cpu_s: float, now: float) -> None:
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        self._armed_at = now
