"""A job that is not submitted yet: its spec with absolute locations, its id, and its output folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parquetry.producers.inputs.source import Source
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JobRecord, job_id
from parquetry.schemas.spec.job import JobSpec, ModelSpec
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage


@dataclass(frozen=True)
class Draft:
    """What is known of a job without looking at its input or its model."""

    #: located
    spec: JobSpec
    #: the id of the job it will be, or is already
    job: str
    output: Storage

    @classmethod
    def of(cls, spec: JobSpec) -> Draft:
        """Raises LocationError."""
        spec = located(spec)
        return cls(spec, job_id(spec), open_storage(Location.parse(spec.output.path)))

    def is_of(self, record: JobRecord) -> bool:
        """Whether the record is of this very job; its id may be another, if it took over the output of a third."""
        return record.spec.fingerprint == self.spec.fingerprint


def located(spec: JobSpec) -> JobSpec:
    """The spec with absolute locations, so that it means the same on every machine and from every folder."""
    path = spec.input.path
    sources = Source.parse(path).normalized if isinstance(path, str) else [Source.parse(p).normalized for p in path]
    return spec.model_copy(
        update={
            "input": spec.input.model_copy(update={"path": sources}),
            "output": spec.output.model_copy(update={"path": str(Location.parse(spec.output.path))}),
            "model": located_model(spec.model),
        }
    )


def located_model(model: ModelSpec) -> ModelSpec:
    found: dict[str, object] = {"id": _absolute(model.id)}
    if model.adapter is not None:
        found["adapter"] = _absolute(model.adapter)
    if model.adapters is not None:
        found["adapters"] = {name: _absolute(folder) for name, folder in model.adapters.items()}
    return model.model_copy(update=found)


def _absolute(path: str) -> str:
    """A folder or file of this machine by its full path; a hub id as it is."""
    found = Path(path).expanduser()
    return str(found.resolve()) if found.exists() else path
