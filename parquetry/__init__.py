"""Offline batch inference over Parquet, over frames, and over whatever holds rows.

>>> import parquetry
>>> labelled = parquetry.classify(frame, text="review", model="models/sentiment")
>>> job = parquetry.run("job.yaml")
>>> job.to_table()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from parquetry.schemas import __version__

if TYPE_CHECKING:
    from parquetry.api.calls import job, jobs, plan, preview, recover, run, submit
    from parquetry.api.job import Job
    from parquetry.frames.tasks import classify, embed, generate, score
    from parquetry.local.standing import close
    from parquetry.schemas.errors import ParquetryError
    from parquetry.schemas.spec.job import JobSpec

#: public name -> the module that has it, imported when asked for: an engine process passes here and needs none of them
_HOMES = {
    **dict.fromkeys(("job", "jobs", "plan", "preview", "recover", "run", "submit"), "parquetry.api.calls"),
    **dict.fromkeys(("classify", "embed", "generate", "score"), "parquetry.frames.tasks"),
    "Job": "parquetry.api.job",
    "JobSpec": "parquetry.schemas.spec.job",
    "ParquetryError": "parquetry.schemas.errors",
    "close": "parquetry.local.standing",
}

__all__ = [
    "Job",
    "JobSpec",
    "ParquetryError",
    "__version__",
    "classify",
    "close",
    "embed",
    "generate",
    "job",
    "jobs",
    "plan",
    "preview",
    "recover",
    "run",
    "score",
    "submit",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
