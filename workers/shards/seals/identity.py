"""What makes a row's answer, as one digest: a seal may stand for a row only where this is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.shard import Shard

#: counts up when what a seal holds means something else
SEAL_VERSION = 1
#: of a part's provenance, what differs between two attempts that answer alike
_OF_ATTEMPT = frozenset({"fence"})


def seal_identity(record: JobRecord, shard: Shard, provenance: Mapping[str, str], engine: Mapping[str, str]) -> str:
    """64 hex digits: equal where job, rows of the input, spec, weights, engine and versions are.

    All that a part's provenance tells is in it, so that the part tells the truth of reused rows too. `engine` is what
    `Engine.describe` returned.
    """
    facts = {
        "version": SEAL_VERSION,
        # an output that was deleted and begun anew is the same job in the same place
        "created": record.created,
        "spec": record.spec.model_dump(mode="json", exclude={"notify", "priority"}),
        "schema": record.input_schema,
        "rows": [shard.first_row, shard.num_rows],
        "engine": dict(engine),
        "provenance": {key: value for key, value in provenance.items() if key not in _OF_ATTEMPT},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
