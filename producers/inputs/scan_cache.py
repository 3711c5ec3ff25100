"""What a full pass over a text file found, kept so that plan, submit and the next submit read it once."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pyarrow as pa
from pydantic import BaseModel, ValidationError

from parquetry.producers.inputs.listing import FoundFile
from parquetry.schemas import __version__
from parquetry.schemas.settings import settings
from parquetry.schemas.shard import Mark
from parquetry.schemas.spec.columns import read_schema_text, schema_text
from parquetry.workers.reading.text_scan import TextFacts

log = logging.getLogger(__name__)
#: smaller files are read faster than they are looked up
_LEAST_BYTES = 1 << 20


class _Stored(BaseModel):
    columns: str
    num_rows: int
    num_bytes: int
    marks: list[Mark]
    num_malformed: int
    malformed: tuple[int, str] | None
    repeated: tuple[str, ...]


def read_scan(file: FoundFile, options: str) -> TextFacts | None:
    """What is kept of this file, as its size and etag say it is now; `options` are those of the pass."""
    path = _path(file, options)
    try:
        stored = _Stored.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    types = {field.name: field.type for field in read_schema_text(stored.columns)}
    return TextFacts(types=types, **stored.model_dump(exclude={"columns"}))


def keep_scan(file: FoundFile, options: str, facts: TextFacts) -> None:
    """Keep it; a folder that cannot be written to costs another pass and nothing else."""
    # what is known of requests grows with their number
    if file.entry.size < _LEAST_BYTES or facts.repeated or facts.batch:
        return
    values = {name: getattr(facts, name) for name in _Stored.model_fields if name != "columns"}
    stored = _Stored(columns=schema_text(pa.schema(list(facts.types.items()))), **values)
    path = _path(file, options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{id(facts)}")
        unfinished.write_text(stored.model_dump_json())
        unfinished.replace(path)
    except OSError as error:
        log.info("the scan of %s is not kept: %s", file.path, error)


def _path(file: FoundFile, options: str) -> Path:
    what = "\n".join((__version__, file.path, str(file.entry.size), file.entry.etag, str(file.kind), options))
    return settings().state_dir / "scans" / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.json"
