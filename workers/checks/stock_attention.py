"""Whether a class answers under transformers' sdpa as under its eager attention, which is written out step by step.

A kernel of scaled_dot_product_attention is told of masks, sinks and caps by arguments, and a class may forget one:
in transformers 5.17 Doge has no mask for a row without padding, whose tokens then see what comes after them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from transformers import PreTrainedModel

from parquetry.workers.checks.narrowing import narrowed, owners, widths_to_try
from parquetry.workers.checks.sharing import FAILURES, NUM_MORE, NUM_ROUNDINGS, Compute, RowAlone

log = logging.getLogger(__name__)
#: how many times its noise a row may be off: right classes reach 2.8 in half precision, and 1.6 in float32
LIMIT = 4.0


def trusted_attention(
    model: PreTrainedModel, compute: Compute, rows: Sequence[np.ndarray], *, is_named: bool
) -> dict[str, str]:
    """Leave a model on sdpa whose answers there are those of eager; switch another to eager, unless a job named sdpa.

    Tried on the first of `rows`. Returns what provenance says of a model whose two differ, else nothing.
    """
    if model.config._attn_implementation != "sdpa":
        return {}
    with torch.inference_mode():
        off = max(_off(model, compute, rows[0], width) for width in widths_to_try(model))
    if off <= LIMIT:
        return {}
    found = f"under transformers' sdpa a row is off its eager attention by {off:.3g} times its noise"
    found += f", where {LIMIT:g} is allowed"
    if is_named:
        log.warning("%s; leave model.attention out for the eager one", found)
        return {"sdpa_differs": found}
    log.warning("%s, so the model runs with the eager one, which is slower", found)
    model.set_attn_implementation("eager")
    return {"attention": "eager", "why_eager": found}


def _off(model: PreTrainedModel, compute: Compute, row: np.ndarray, width: int | None) -> float:
    """How far the row's answer under eager is from that under sdpa, in units of the latter's noise."""
    with narrowed(model, width):
        alone = RowAlone(model, compute, row)
        try:
            with eager_attention(model):
                found = compute([row])[0]
        except FAILURES:
            # without eager answers there is nothing to hold those of sdpa against
            return 0.0
        if alone.error(found) > LIMIT:
            # rounding may decide between experts, and a few roundings may have missed that
            alone.draw(range(NUM_ROUNDINGS, NUM_ROUNDINGS + NUM_MORE))
        return alone.error(found)


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Attention written out in here; every part of the model gets its own back, which need not be that of the whole."""
    parts = [owner for owner in owners(model) if hasattr(owner, "_attn_implementation_internal")]
    before = [part._attn_implementation_internal for part in parts]
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        for part, implementation in zip(parts, before, strict=True):
            part._attn_implementation_internal = implementation
