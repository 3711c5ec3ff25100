"""Whether a row of this shard may explain why its engine failed, or the engine is to blame."""

from __future__ import annotations

from parquetry.schemas.errors import EngineFaultError, EngineUnfitError
from parquetry.tasks.ledger.claim import Claim
from parquetry.tasks.ledger.ledger import Ledger


def judged(ledger: Ledger, claim: Claim, error: Exception) -> Exception:
    """`error`, or EngineUnfitError where engines failed for its reason and no shard was in flight every time.

    A fault whose shards are all committed by now is explained: it has passed, or its rows have been found.
    """
    if not isinstance(error, EngineFaultError) or claim.blames_rows:
        return error
    return error if one_explains(error.faults, ledger.committed(claim.job)) else EngineUnfitError(reason=error.reason)


def one_explains(faults: list[list[int]], committed: set[int]) -> bool:
    """Whether one shard was in flight at every fault that is not explained yet."""
    unexplained = [set(shards) for shards in faults if not set(shards) <= committed]
    return not unexplained or bool(set.intersection(*unexplained))
