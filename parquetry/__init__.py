"""Offline batch inference over Parquet.

>>> import parquetry
>>> job = parquetry.run({"task": "generate", "input": {"path": "data/"}, ...})
>>> job.to_table()
"""

from parquetry.api import Job, run, submit
from schemas import __version__
from schemas.errors import ParquetryError

__all__ = ["Job", "ParquetryError", "__version__", "run", "submit"]
