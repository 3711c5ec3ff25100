"""How our processes log: plain lines, or a JSON object a line with job, shard and attempt. Never a row's text."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from parquetry.schemas.settings import settings

PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: what this process works on; a process runs one shard at a time, and its threads all work on that one
_about: dict[str, str | int] = {}


def log_to(stream: TextIO, plain: str = PLAIN) -> None:
    """Send the log of this process to `stream`, in the format of PARQUETRY_LOG_FORMAT."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if settings().log_format == "json" else logging.Formatter(plain))
    logging.basicConfig(level=settings().log_level, handlers=[handler])
    # a warning of a library would be several lines of its own
    logging.captureWarnings(settings().log_format == "json")


@contextmanager
def about(**fields: str | int) -> Iterator[None]:
    """Name these in every JSON line of this process while the context lasts."""
    _about.update(fields)
    try:
        yield
    finally:
        for name in fields:
            _about.pop(name, None)


class JsonLines(logging.Formatter):
    """One record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Time (UTC), level, logger, process, message, what the process works on, and the traceback if there is one."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **_about,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
