"""A line a job, of all jobs: what a list is searched and filtered by. Of jobs that have ended it is read once."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import redis

from parquetry.schemas.progress.states import JobState
from parquetry.tasks.broker.connection import translated
from parquetry.tasks.keys import Keys

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

    def __init__(self, client: redis.Redis, url: str, keys: Keys) -> None:
        self._client = client
        self._url = url
        self._keys = keys
        self._known: dict[str, JobLine] = {}

    def lines(self) -> list[JobLine]:
        """Every job, the newest first."""
        with translated(self._url):
            listed = cast("list[tuple[str, float]]", self._client.zrevrange(self._keys.jobs, 0, -1, withscores=True))
            # whoever resumes or retries a job enters it here, so what is not in it stays as it ended
            live = cast("set[str]", self._client.smembers(self._keys.live))
            self._refresh({job: int(created) for job, created in listed}, live)
        return [self._known[job] for job, _ in listed]

    def _refresh(self, listed: dict[str, int], live: set[str]) -> None:
        kept = {job: line for job, line in self._known.items() if _is_settled(line, listed, live)}
        wanted = [job for job in listed if job not in kept]
        with self._client.pipeline(transaction=False) as pipe:
            for job in wanted:
                pipe.hmget(self._keys.of_job(job, "ctl"), FIELDS)
            found = pipe.execute(raise_on_error=False)
        self._known = kept | {job: _line(job, listed[job], row) for job, row in zip(wanted, found, strict=True)}


def _is_settled(line: JobLine, listed: dict[str, int], live: set[str]) -> bool:
    """Whether the line says what there is to say until somebody takes the job up again."""
    is_same = listed.get(line.job) == line.created_ms
    return is_same and line.state.is_final and line.job not in live


def _line(job: str, created_ms: int, row: Any) -> JobLine:
    fields = dict(zip(FIELDS, row, strict=True)) if isinstance(row, list) else {}
    state = fields.pop("state", None)
    known = JobState(state) if state in set(JobState) else JobState.FAILED
    texts = {name: fields.get(name) or "" for name in FIELDS[1:]}
    return JobLine(job=job, created_ms=created_ms, state=known, **texts)
