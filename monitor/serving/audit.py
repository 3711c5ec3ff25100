"""Who changed which job, when, and from where: a line of JSON each, in a file that is the operator's alone."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from parquetry.schemas.settings import settings

log = logging.getLogger(__name__)


def audit_file() -> Path:
    """`audit.jsonl` of the state folder of this machine."""
    return settings().state_dir / "audit.jsonl"


def note_change(change: str, job: str, who: str, outcome: str = "done") -> None:
    """Add a line; a file that cannot be written is warned of, since the change itself has happened."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    line = json.dumps({"when": when, "who": who, "change": change, "job": job, "outcome": outcome[:300]})
    log.info("%s: %s of job %s by %s", outcome[:300], change, job, who)
    file = audit_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # appended in one piece, so that several processes may write to it
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "ab", buffering=0) as stream:
            stream.write(line.encode() + b"\n")
    except OSError as error:
        log.warning("the change was not noted in %s: %s", file, error)


def user_here() -> str:
    """Whoever runs this process, as the operating system knows them."""
    try:
        import pwd

        name = pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        name = str(os.getuid())
    return f"{name}@{os.uname().nodename}"
