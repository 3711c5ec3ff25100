"""Which job a user means: an id, a unique beginning of one, the name that a spec gives, or `@last`."""

from __future__ import annotations

from typing import cast

from parquetry.schemas.errors import AmbiguousJobError
from parquetry.tasks.broker.connection import translated
from parquetry.tasks.ledger.verbs import Verbs

#: the job that was registered last
LAST = "@last"
SHOWN_JOBS = 5


class JobNames(Verbs):
    """Finds jobs by what users call them. An id goes before a name, and a name before the beginning of an id."""

    def find(self, text: str) -> str:
        """The id of the job that `text` stands for. Raises UnknownJobError, AmbiguousJobError."""
        jobs = self.job_names()
        if text in jobs:
            return text
        if text == LAST and jobs:
            return jobs[0]
        names = self.names(jobs)
        found = [job for job in jobs if text and names[job] == text] or [job for job in jobs if job.startswith(text)]
        if not found or not text:
            raise self._unknown(text)
        if len(found) > 1:
            more = ", ..." if len(found) > SHOWN_JOBS else ""
            raise AmbiguousJobError(job=text, count=len(found), jobs=", ".join(found[:SHOWN_JOBS]) + more)
        return found[0]

    def names(self, jobs: list[str]) -> dict[str, str]:
        """What the specs of these jobs call them, "" where they have no name."""
        with translated(self.url), self._client.pipeline(transaction=False) as pipe:
            for job in jobs:
                pipe.hget(self._keys.of_job(job, "ctl"), "name")
            # a damaged record must not hide the others
            found = cast("list[object]", pipe.execute(raise_on_error=False))
        return {job: name if isinstance(name, str) else "" for job, name in zip(jobs, found, strict=True)}
