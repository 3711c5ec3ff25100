"""A line a job, of all jobs: what a list is searched and filtered by. Of jobs that have ended it is read once."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, cast

from parquetry.schemas.progress.states import JobState
from parquetry.tasks.broker.connection import translated
from parquetry.tasks.keys import Keys
from parquetry.tasks.ledger.scripts import Scripts

#: jobs that one script looks at: a few milliseconds of the server
AT_ONCE = 1000
_STATES = {state.value: state for state in JobState}
FIELDS = ("state", "task", "model", "output", "queue", "name")


class JobLine(NamedTuple):
    """What a list of jobs is searched by. A damaged record has the state failed."""

    job: str
    #: ms since the Unix epoch
    created_ms: int
    state: JobState
    task: str
    model: str
    output: str
    queue: str
    name: str

    @property
    def text(self) -> str:
        """All that a search looks at, in lower case."""
        return " ".join((self.job, self.name, self.task, self.model, self.output, self.queue)).lower()


class JobIndex:
    """Raises BrokerUnreachableError. Not for two threads at once."""

    def __init__(self, scripts: Scripts, keys: Keys) -> None:
        self._scripts = scripts
        self._client, self._url = scripts.client, scripts.url
        self._keys = keys
        self._known: dict[str, JobLine] = {}

    def lines(self) -> list[JobLine]:
        """Every job, the newest first."""
        with translated(self._url):
            # an empty list is an object in this JSON
            flat = json.loads(self._scripts("listed_jobs", [self._keys.jobs], [])) or []
            listed = dict(zip(flat[::2], map(int, flat[1::2]), strict=True))
            # whoever resumes or retries a job enters it here, so what is not in it stays as it ended
            live = cast("set[str]", self._client.smembers(self._keys.live))
            self._refresh(listed, live)
        return [self._known[job] for job in listed]

    def _refresh(self, listed: dict[str, int], live: set[str]) -> None:
        kept = {job: line for job, line in self._known.items() if _is_settled(line, listed, live)}
        wanted = [job for job in listed if job not in kept]
        for first in range(0, len(wanted), AT_ONCE):
            asked = wanted[first : first + AT_ONCE]
            args = [self._keys.prefix, "\n".join(FIELDS), *asked]
            rows = json.loads(self._scripts("job_lines", [], args))
            kept |= {job: _line(job, listed[job], row) for job, row in zip(asked, rows, strict=True)}
        self._known = kept


def _is_settled(line: JobLine, listed: dict[str, int], live: set[str]) -> bool:
    """Whether the line says what there is to say until somebody takes the job up again."""
    is_same = listed.get(line.job) == line.created_ms
    return is_same and line.state.is_final and line.job not in live


def _line(job: str, created_ms: int, row: Any) -> JobLine:
    fields = dict(zip(FIELDS, row, strict=True)) if len(row) == len(FIELDS) else {}
    state = _STATES.get(fields.get("state") or "", JobState.FAILED)
    return JobLine(job, created_ms, state, *(fields.get(name) or "" for name in FIELDS[1:]))
