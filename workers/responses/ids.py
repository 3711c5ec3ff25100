"""Ids of answers: the same for a row however often its line is written."""

from __future__ import annotations

import hashlib

from parquetry.schemas.manifest import JobRecord


def row_id(record: JobRecord, row: int, *within: object) -> str:
    """24 hex digits for a row of a job, or for something within its answer."""
    # an output that was deleted and begun anew is the same job
    text = ":".join(map(str, (record.job, record.created, row, *within)))
    return hashlib.sha256(text.encode()).hexdigest()[:24]
