"""A finished part: what its footer claims, and whether the file bears it out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from parquetry.schemas.errors import PartInvalidError, StorageError
from parquetry.schemas.manifest import JobRecord, PartRecord, RowRound
from parquetry.schemas.shard import Shard, part_name
from parquetry.schemas.spec.columns import ENTITIES, ERROR, ROW, ROW_ROUNDS, task_fields
from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.storage.storage import Storage
from parquetry.workers.shards.provenance import from_metadata
from parquetry.workers.shards.shard_progress import RowCounts

_BLOCK_BYTES = 1 << 20
_COUNTS = tuple(field.name for field in fields(RowCounts))


def find_part(storage: Storage, record: JobRecord, shard: int) -> PartRecord | None:
    """The published part of a shard, whoever published it, verified by its footer; None where there is none.

    Raises PartInvalidError when a file of that name is not what the shard must hold, and StorageError.
    """
    entry = storage.head(part_name(shard))
    if entry is None:
        return None
    with storage.open(entry.path) as file:
        return inspect(file, entry.path, record, record.shard_plan.shard(shard), etag=entry.etag)


def inspect(file: BinaryIO, name: str, record: JobRecord, shard: Shard, *, etag: str = "") -> PartRecord:
    """Check an open part: schema, number of rows, contiguous `row`, and the footer's keys.

    `name` is where it lies now, which errors tell; the record has the part's final name. Raises PartInvalidError,
    StorageError.
    """
    try:
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            keys = from_metadata(parquet.metadata.metadata)
            rows = parquet.metadata.num_rows
            problem = (
                _schema_problem(record.spec, parquet.schema_arrow)
                or _key_problem(keys, record, shard, rows)
                or _row_problem(parquet, shard)
            )
    except (pa.ArrowException, OSError) as error:
        # the system's errors carry a number and may pass; those about the content do not
        if isinstance(error, OSError) and error.errno is not None:
            raise StorageError(operation="reading", path=name, reason=error.strerror) from error
        problem = f"it is not a whole Parquet file ({str(error).partition(chr(10))[0][:200]})"
    if problem:
        raise PartInvalidError(path=name, shard=shard.index, reason=problem)
    size, digest = _digest(file)
    counts = {key: int(keys[key]) for key in ("fence", *_COUNTS)}
    facts = {"errors": json.loads(keys.get("errors", "{}")), "last_round": last_round(keys)}
    return PartRecord(path=shard.part_name, shard=shard.index, size=size, sha256=digest, etag=etag, **facts, **counts)


def last_round(keys: Mapping[str, str]) -> RowRound:
    """The last retry of rows that a part's keys tell of."""
    rounds = json.loads(keys.get(ROW_ROUNDS, "[]"))
    return RowRound.model_validate(rounds[-1]) if rounds else RowRound()


def _schema_problem(spec: JobSpec, schema: pa.Schema) -> str | None:
    # only the model knows whether its labels are of texts or of tokens
    per_token = spec.task == "classify" and schema.names[-2:-1] == [ENTITIES.name]
    expected = [ROW, *task_fields(spec, per_token=per_token), ERROR]
    found = list(schema)[-len(expected) :]
    if [field.name for field in found] != [field.name for field in expected]:
        return f"its last columns are {', '.join(field.name for field in found)}"
    differing = next((f for f, e in zip(found, expected, strict=True) if not _same_type(f.type, e.type)), None)
    if differing is not None:
        return f"its column {differing.name!r} is {differing.type}"
    kept = schema.names[: -len(expected)]
    if spec.output.keep is not None and kept != spec.output.keep:
        return f"it carries the input columns {', '.join(kept) or 'none'} instead of {', '.join(spec.output.keep)}"
    return None


def _same_type(found: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_list(expected):
        return pa.types.is_list(found) and _same_type(found.value_type, expected.value_type)
    if pa.types.is_fixed_size_list(expected):
        # only the model knows how long an embedding is
        return pa.types.is_fixed_size_list(found) and found.value_type == expected.value_type
    return found == expected


def _key_problem(keys: dict[str, str], record: JobRecord, shard: Shard, rows: int) -> str | None:
    if keys.get("job") != record.job:
        return f"it belongs to job {keys.get('job')}"
    if keys.get("shard") != str(shard.index):
        return f"it says it is shard {keys.get('shard')}"
    missing = next((key for key in ("fence", *_COUNTS) if not keys.get(key, "").isdecimal()), None)
    if missing:
        return f"its footer has no {missing}"
    if rows != shard.num_rows or int(keys["rows"]) != shard.num_rows:
        return f"it holds {rows} rows, not {shard.num_rows}"
    return None


def _row_problem(parquet: pq.ParquetFile, shard: Shard) -> str | None:
    expected = shard.first_row
    for batch in parquet.iter_batches(65536, columns=[ROW.name], use_threads=False):
        numbers = batch[ROW.name].to_numpy(zero_copy_only=False)
        if not np.array_equal(numbers, np.arange(expected, expected + len(numbers))):
            return f"its row numbers do not run from {shard.first_row} to {shard.first_row + shard.num_rows - 1}"
        expected += len(numbers)
    return None


def _digest(file: BinaryIO) -> tuple[int, str]:
    file.seek(0)
    digest, size = hashlib.sha256(), 0
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()
