"""Which worker to start for a job that none of those that live can run."""

from __future__ import annotations

from collections.abc import Iterable

from parquetry.workers.engine_needs import ATTENTIONS, BACKENDS, CARD, QUANTIZATIONS


def to_start(needs: Iterable[str]) -> str:
    """Which worker to start for a job that needs these, as a clause."""
    wanted = list(needs)
    extras = {extra for packages, extra in BACKENDS.values() if set(packages) <= set(wanted)}
    extras |= {"gpu"} if set(QUANTIZATIONS.values()) & set(wanted) else set()
    extras |= {"flash"} if set(ATTENTIONS.values()) & set(wanted) else set()
    card = next((f" on a machine with {need}" for need in wanted if need.startswith(CARD)), "")
    return f"start `parquetry worker`{card} where `pip install 'parquetry[{','.join(sorted(extras))}]'` was run"
