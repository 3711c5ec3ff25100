"""The hook of an operator: a command of this machine that is run for what happens to jobs, see PARQUETRY_ON_EVENT."""

from __future__ import annotations

import logging
import os
import subprocess
import time

from parquetry.schemas.settings import settings
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.ledger.outbox import Notice
from parquetry.tasks.webhooks import payload

log = logging.getLogger(__name__)
TIMEOUT_S = 60.0
#: tries before a notice is given up
MAX_TRIES = 5
#: what nobody had a hook for is of no interest later
MAX_AGE_S = 86_400.0


def run_due_hooks(ledger: Ledger, *, ahead_s: int = 0) -> int:
    """Run the hook for every event that is due, or will be in `ahead_s`; how often it ended well.

    Each event is told at least once, by one process of those that have a hook.
    """
    command, count = settings().on_event, 0
    if command is None:
        return count
    while (notice := ledger.hooks.take(ahead_s=ahead_s)) is not None:
        if time.time() - notice.at_ms / 1000 > MAX_AGE_S:
            ledger.hooks.done(notice)
        else:
            count += _run(ledger, notice, command)
    return count


def _run(ledger: Ledger, notice: Notice, command: str) -> bool:
    problem = _problem(command, notice, payload(ledger, notice))
    if problem is not None and notice.tries < MAX_TRIES:
        log.warning("job %s: the hook for %s %s; it will be run again", notice.job, notice.event, problem)
        return False
    if problem is not None:
        log.error("job %s: the hook for %s %s, in %d tries", notice.job, notice.event, problem, notice.tries)
    ledger.hooks.done(notice)
    return problem is None


def _problem(command: str, notice: Notice, body: bytes) -> str | None:
    """Run the command with the event as JSON on its input; what went wrong. Nothing of a job gets into the command."""
    told = {"PARQUETRY_EVENT": f"job.{notice.event}", "PARQUETRY_JOB": notice.job, "PARQUETRY_EVENT_ID": notice.id}
    try:
        # a shell, since the operator wrote the line as for one
        ended = subprocess.run(
            command,
            shell=True,
            input=body,
            env={**os.environ, **told},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {TIMEOUT_S:g} s"
    said = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
    return f"ended with code {ended.returncode}: {said}" if ended.returncode else None
