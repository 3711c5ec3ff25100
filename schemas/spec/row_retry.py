"""`_retries/` beside the output: a file for each retry of error rows, with the settings they are computed with."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from parquetry.schemas.manifest import FORMAT_VERSION, JobRecord
from parquetry.schemas.spec.job import JobSpec

RETRIES_FOLDER = "_retries"


def retry_file(round: int) -> str:
    """Where the retry with this number lies."""
    return f"{RETRIES_FOLDER}/{round:08d}.json"


class RowRetry(BaseModel):
    """The content of one file, which is never written again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = FORMAT_VERSION
    job: str
    #: which retry of rows of the job it is, from 1
    round: int
    created: str
    #: the job's own with what was changed, without addresses of webhooks
    spec: JobSpec
    #: as in JobRecord
    model_path: str
    #: dotted keys that were changed, with their values
    changes: dict[str, object] = {}
    #: whose error rows are computed anew, see number_ranges.py
    shards: str = ""

    def applied(self, record: JobRecord) -> JobRecord:
        """The job's record as this retry computes rows."""
        return record.model_copy(update={"spec": self.spec, "model_path": self.model_path})
