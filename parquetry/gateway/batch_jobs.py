"""A batch as a job: its spec, and how far the queue is with it."""

from __future__ import annotations

import logging
from contextlib import suppress

from parquetry.gateway.batch_folder import BatchFolder
from parquetry.gateway.batch_record import BatchRecord
from parquetry.gateway.gateway_spec import GatewaySpec
from parquetry.gateway.stored_files import StoredFiles
from parquetry.producers.output.existing_output import find_status
from parquetry.producers.submission import submit
from parquetry.schemas.errors import IllegalTransitionError
from parquetry.schemas.manifest import job_id
from parquetry.schemas.progress.status import JobStatus
from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.storage.opening import open_storage
from parquetry.tasks.answer_files import publish_answers
from parquetry.tasks.cancellation import cancel
from parquetry.tasks.job_record import read_record
from parquetry.tasks.ledger.ledger import Ledger

log = logging.getLogger(__name__)


class BatchJobs:
    """The jobs of batches, by way of the queue."""

    def __init__(self, spec: GatewaySpec, files: StoredFiles, ledger: Ledger) -> None:
        self._spec, self._files, self._ledger = spec, files, ledger

    def spec(self, record: BatchRecord, folder: BatchFolder) -> JobSpec:
        """The job of a batch, the same whenever it is asked for."""
        given = {
            "path": str(self._files.location(record.user, record.input_file_id)),
            "format": "openai-batch",
            "url": record.endpoint,
            "models": [record.model],
        }
        output = {"path": str(folder.output), "format": "openai-batch", "keep": ["custom_id"]}
        sections = self._spec.models[record.model].sections(record.endpoint)
        return JobSpec.parse({**sections, "name": record.id, "input": given, "output": output})

    def status(self, record: BatchRecord, folder: BatchFolder) -> JobStatus:
        """How far it is; a job that the queue does not know, or not any more, is submitted. Raises what that raises."""
        spec = self.spec(record, folder)
        known = find_status(self._ledger, job_id(spec))
        if known is None:
            known = self._ledger.status(submit(spec, self._ledger).job, max_failures=0)
        return known

    def stop(self, status: JobStatus) -> None:
        """Cancel the job, unless it has ended by itself."""
        with suppress(IllegalTransitionError):
            cancel(self._ledger, status.job, status.output)

    def answer_rest(self, status: JobStatus, folder: BatchFolder, code: str, message: str) -> None:
        """Write the files of a job that ended before all of its rows were answered."""
        storage = open_storage(folder.output)
        publish_answers(storage, read_record(storage, status.job), unanswered={"code": code, "message": message})
