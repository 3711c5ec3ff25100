"""How long a job takes and what it costs, by the pace at which some of its rows were computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from parquetry.schemas.progress.prediction import Prediction

#: of the mean of a sample, in standard errors: nineteen of twenty lie within
_CONFIDENCE = 1.96


@dataclass(frozen=True)
class MeasuredRows:
    """Rows that were computed for real."""

    rows: int
    #: with an engine that was loaded
    computing_s: float
    #: of each row that has an output; empty where nothing is generated
    output_tokens: Sequence[int] = ()


def predict(measured: MeasuredRows, rows: int, *, gpus: int = 1, price: float | None = None) -> Prediction:
    """What `rows` rows take at the pace of those that were measured, of which there must be one."""
    spread = _spread(measured.output_tokens)
    mean = fmean(measured.output_tokens) if measured.output_tokens else 0.0
    seconds = measured.computing_s * rows / measured.rows
    outputs = rows * len(measured.output_tokens) / measured.rows * mean
    return Prediction.of_cards(
        rows,
        (outputs * (1 - spread), outputs, outputs * (1 + spread)),
        (seconds * (1 - spread), seconds, seconds * (1 + spread)),
        gpus=gpus,
        price=price,
        source=f"measured here on {measured.rows:,} rows at once; a whole job computes more at once and may be faster",
    )


def _spread(lengths: Sequence[int]) -> float:
    """How far the mean of all may be from that of these, as a part of it; all of it where one length tells nothing."""
    if not lengths or not sum(lengths):
        return 0.0
    if len(lengths) == 1:
        return 1.0
    return min(1.0, _CONFIDENCE * stdev(lengths) / math.sqrt(len(lengths)) / fmean(lengths))
