"""`_retry.json` beside the output: the last retry of a job's error rows, and the settings they are computed with."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from parquetry.schemas.job import JobSpec
from parquetry.schemas.manifest import FORMAT_VERSION, JobRecord

RETRY_FILE = "_retry.json"


class RowRetry(BaseModel):
    """The content of `_retry.json`. It stays when the retry is over; the next one has the next round."""

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

    def applied(self, record: JobRecord) -> JobRecord:
        """The job's record as this retry computes rows."""
        return record.model_copy(update={"spec": self.spec, "model_path": self.model_path})
