"""Offline batch inference over Parquet.

>>> import parquetry
>>> job = parquetry.run({"task": "generate", "input": {"path": "data/"}, ...})
>>> job.to_table()
"""

from typing import TYPE_CHECKING, Any

from parquetry.schemas import __version__

if TYPE_CHECKING:
    from parquetry.api import Job, jobs, plan, preview, recover, run, submit
    from parquetry.schemas.errors import ParquetryError

__all__ = ["Job", "ParquetryError", "__version__", "jobs", "plan", "preview", "recover", "run", "submit"]


def __getattr__(name: str) -> Any:
    """The public names, imported when asked for: an engine process passes here and needs none of them."""
    if name == "ParquetryError":
        from parquetry.schemas.errors import ParquetryError

        return ParquetryError
    if name in __all__:
        from parquetry import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
