"""A part that lies under its final name already: whoever published it, it is the shard's output."""

from __future__ import annotations

from parquetry.schemas.manifest import JobRecord, PartRecord
from parquetry.schemas.shard import part_name
from parquetry.schemas.storage.storage import Storage
from parquetry.tasks.ledger.claim import CommittedPart, Counts
from parquetry.workers.shards.part import verify


def find_part(storage: Storage, record: JobRecord, shard: int) -> CommittedPart | None:
    """The committed part of a shard, verified by its footer, or None.

    Raises PartInvalidError when a file of that name is not what the shard must hold.
    """
    name = part_name(shard)
    if storage.head(name) is None:
        return None
    footer = verify(storage, name, record, record.plan.shard(shard))
    found = {field: getattr(footer, field) for field in ("path", "shard", "fence", "rows", "error_rows", "size")}
    return CommittedPart(
        part=PartRecord(**found, sha256=footer.sha256, etag=footer.etag),
        counts=Counts(prompt_tokens=footer.prompt_tokens, output_tokens=footer.output_tokens),
    )
