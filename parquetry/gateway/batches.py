"""Batches: created, told of, cancelled. What a batch is at a moment follows from its folder and from the queue."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from typing import Any

from parquetry.gateway.batch_folder import FILES, BatchFolder
from parquetry.gateway.batch_jobs import BatchJobs
from parquetry.gateway.batch_record import WINDOWS, BatchObject, BatchRecord, problem
from parquetry.gateway.gateway_spec import GatewaySpec
from parquetry.gateway.refusals import Refusal, not_found
from parquetry.gateway.stored_files import StoredFiles
from parquetry.schemas.errors import BadInputError, ParquetryError
from parquetry.schemas.location import Location
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import JobStatus
from parquetry.schemas.spec.batch_format import URLS
from parquetry.schemas.storage.opening import open_storage

_ID = re.compile(r"batch_[0-9a-f]{24}")
_MAX_METADATA = 16
#: of a file's beginning, where the model is looked for
_HEAD_BYTES = 1 << 20
_STOPPED = {
    "cancelled": ("batch_cancelled", "This request was not executed before the batch was cancelled."),
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "failed": ("server_error", "This request could not be executed; the operator's job report says why."),
}


class Batches:
    """The batches of all users."""

    def __init__(self, spec: GatewaySpec, root: Location, files: StoredFiles, jobs: BatchJobs) -> None:
        self._spec, self._files, self._jobs = spec, files, jobs
        self._root, self._outputs = root.join("batches"), root.join("outputs")
        # one at a time: nobody has more open batches than are allowed by asking for two at once
        self._creating = threading.Lock()

    def create(self, user: str, asked: dict[str, Any]) -> BatchObject:
        """Raises Refusal for what cannot be asked for, and for one batch too many."""
        record = self._record(user, asked)
        folder = self.folder(user, record.id)
        with self._creating:
            self._require_room(user)
            folder.create(record)
        try:
            return self._told(record, folder)
        except ParquetryError:
            # the sender is told to try again, and would have two
            folder.forget()
            raise

    def _record(self, user: str, asked: dict[str, Any]) -> BatchRecord:
        endpoint, window, file_id = (_text(asked, key) for key in ("endpoint", "completion_window", "input_file_id"))
        if not any(endpoint in urls for urls in URLS.values()):
            raise Refusal(400, f"The endpoint {endpoint[:80]!r} is not served here.", param="endpoint")
        if window not in WINDOWS:
            raise Refusal(400, "The completion window is '24h'.", param="completion_window")
        self._files.get(user, file_id)
        known = {"endpoint": endpoint, "completion_window": window, "input_file_id": file_id}
        model = self._model(user, file_id)
        if endpoint not in self._spec.models[model].endpoints:
            raise Refusal(400, f"The model {model} is not served at {endpoint}.", param="endpoint")
        metadata = _metadata(asked.get("metadata"))
        name, now = f"batch_{uuid.uuid4().hex[:24]}", int(time.time())
        found = {"id": name, "user": user, "created_at": now, "metadata": metadata, "model": model, **known}
        return BatchRecord.model_validate(found)

    def _model(self, user: str, file_id: str) -> str:
        """What the first line asks for; lines that ask for another are refused one by one."""
        with self._files.open(user, file_id) as file:
            line = file.readline(_HEAD_BYTES)
        try:
            name = json.loads(line)["body"]["model"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Refusal(400, "The first line of the file is no request with a model in its body.") from None
        if name not in self._spec.models:
            known = ", ".join(sorted(self._spec.models))
            message = f"The model {str(name)[:80]!r} does not exist; there are: {known}"
            raise Refusal(400, message, param="model", code="model_not_found")
        return str(name)

    def _require_room(self, user: str) -> None:
        names = self.names(user)
        open_ones = sum(self.folder(user, name).ended() is None for name in names)
        if open_ones >= self._spec.limits.open_batches:
            most = self._spec.limits.open_batches
            raise Refusal(429, f"You have {most} open batches, the most that are taken.", code="too_many_batches")

    def get(self, user: str, name: str) -> BatchObject:
        """Raises Refusal for a batch that is not there, or another user's."""
        return self._told(*self._found(user, name))

    def page(self, user: str, after: str | None, limit: int) -> tuple[list[BatchObject], bool]:
        """The user's batches behind `after`, newest first, and whether there are more."""
        records = [record for name in self.names(user) if (record := self.folder(user, name).record()) is not None]
        records.sort(key=lambda record: (-record.created_at, record.id))
        start = next((at + 1 for at, record in enumerate(records) if record.id == after), 0)
        page = records[start : start + limit]
        return [self._told(record, self.folder(user, record.id)) for record in page], len(records) > start + limit

    def cancel(self, user: str, name: str) -> BatchObject:
        """Raises Refusal for a batch that has ended."""
        record, folder = self._found(user, name)
        found = self._told(record, folder)
        if found["status"] not in ("in_progress", "cancelling"):
            raise Refusal(400, f"Cannot cancel a batch with status '{found['status']}'.", code="invalid_status")
        folder.stop("cancelled", int(time.time()))
        return self._told(record, folder)

    def uses(self, user: str, file_id: str) -> str | None:
        """A batch that has not ended and reads this file."""
        for name in self.names(user):
            folder = self.folder(user, name)
            record = folder.record()
            if record is not None and record.input_file_id == file_id and folder.ended() is None:
                return name
        return None

    def _told(self, record: BatchRecord, folder: BatchFolder) -> BatchObject:
        """The batch as it is now. Whoever sees that it has ended, or that its time is over, makes it so."""
        if (ended := folder.ended()) is not None:
            return ended
        if record.model not in self._spec.models:
            return self._failed(record, folder, f"The model {record.model} is not served any more.")
        try:
            status = self._jobs.status(record, folder)
        except BadInputError as error:
            return self._failed(record, folder, str(error))
        if time.time() >= record.expires_at:
            folder.stop("expired", int(time.time()))
        if (stopped := folder.stopped()) is not None and not status.state.is_final:
            self._jobs.stop(status)
            status = self._jobs.status(record, folder)
        return self._ended(record, folder, status, stopped) if status.state.is_final else _open(record, status, stopped)

    def _failed(self, record: BatchRecord, folder: BatchFolder, message: str) -> BatchObject:
        return folder.end(record.told("failed", failed_at=int(time.time()), errors=problem(message, "invalid_request")))

    def _ended(
        self, record: BatchRecord, folder: BatchFolder, status: JobStatus, stopped: dict[str, Any] | None
    ) -> BatchObject:
        if status.shards_running and status.state is JobState.CANCELLED:
            # what they have is about to be dropped, or committed a moment ago
            return _open(record, status, stopped or {"at": int(time.time())})
        if status.state is JobState.FAILED and status.refusal is not None and not status.shards_done:
            return self._failed(record, folder, status.refusal)
        why = {JobState.DONE: "completed", JobState.FAILED: "failed"}.get(status.state)
        why = why or (stopped["why"] if stopped else "cancelled")
        if why in _STOPPED:
            self._jobs.answer_rest(status, folder, *_STOPPED[why])
        # with failed shards too: each line has an answer or an error, and clients read the files of no failed batch
        told = "completed" if why == "failed" else why
        times = {
            f"{told}_at": int(status.ended or time.time()),
            **_begun(record, stopped if told == "cancelled" else None),
        }
        counts = _counts(status, is_over=True)
        return folder.end(record.told(told, **times, **self._file_ids(record, folder), request_counts=counts))

    def _file_ids(self, record: BatchRecord, folder: BatchFolder) -> dict[str, str | None]:
        """Ids of the files that have a line."""
        found = {kind: folder.file(kind) for kind in FILES}
        key = record.id.removeprefix("batch_")
        ids = {kind: f"file-{kind}-{key}" if entry and entry.size else None for kind, entry in found.items()}
        return {"output_file_id": ids["out"], "error_file_id": ids["err"]}

    def _found(self, user: str, name: str) -> tuple[BatchRecord, BatchFolder]:
        if not _ID.fullmatch(name):
            raise not_found("batch", name)
        folder = self.folder(user, name)
        record = folder.record()
        if record is None:
            raise not_found("batch", name)
        return record, folder

    def folder(self, user: str, name: str) -> BatchFolder:
        """Where a batch lies, or would."""
        return BatchFolder(self._root.join(f"{user}/{name}"), self._outputs.join(f"{user}/{name}"))

    def names(self, user: str) -> list[str]:
        """Ids of the user's batches."""
        entries = open_storage(self._root.join(user)).list()
        return [entry.path.partition("/")[0] for entry in entries if entry.path.endswith("/batch.json")]


def _text(asked: dict[str, Any], key: str) -> str:
    if not isinstance(asked.get(key), str):
        raise Refusal(400, f"{key} is required, and it is a text.", param=key)
    return str(asked[key])


def _metadata(found: Any) -> dict[str, str] | None:
    texts = found is None or (isinstance(found, dict) and all(isinstance(value, str) for value in found.values()))
    if not texts or (found is not None and len(found) > _MAX_METADATA):
        raise Refusal(400, f"metadata is an object of at most {_MAX_METADATA} texts.", param="metadata")
    return found


def _begun(record: BatchRecord, stopped: dict[str, Any] | None) -> dict[str, int]:
    cancelling = {} if stopped is None else {"cancelling_at": int(stopped["at"])}
    return {"in_progress_at": record.created_at, **cancelling}


def _open(record: BatchRecord, status: JobStatus, stopped: dict[str, Any] | None) -> BatchObject:
    """A batch that has not ended."""
    told = "finalizing" if status.shards_done == status.shards else "in_progress" if stopped is None else "cancelling"
    return record.told(told, **_begun(record, stopped), request_counts=_counts(status, is_over=False))


def _counts(status: JobStatus, *, is_over: bool) -> dict[str, int]:
    """Rows that are committed or finished in running shards; in the end every other row has failed."""
    failed = status.error_rows + (0 if is_over else status.running_error_rows)
    done = status.rows_done + (0 if is_over else status.running_rows)
    completed = max(done - failed, 0)
    return {"total": status.rows, "completed": completed, "failed": status.rows - completed if is_over else failed}
