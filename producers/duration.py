"""How long a job takes and what it costs, by the pace at which some of its rows were computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from pydantic import BaseModel, ConfigDict

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


class Duration(BaseModel):
    """Time, GPU hours and money of a whole job; a range where outputs differ in length."""

    model_config = ConfigDict(frozen=True)

    #: least, most likely, most
    output_tokens: tuple[int, int, int]
    #: of `gpus` cards, without loading the model
    seconds: tuple[float, float, float]
    gpus: int
    gpu_hours: tuple[float, float, float]
    #: None without a price
    money: tuple[float, float, float] | None
    #: what it comes from, and what it leaves out
    source: str


def predict(measured: MeasuredRows, rows: int, *, gpus: int = 1, price_per_gpu_hour: float | None = None) -> Duration:
    """The duration of `rows` rows at the pace of those that were measured, of which there must be one."""
    spread = _spread(measured.output_tokens)
    mean = fmean(measured.output_tokens) if measured.output_tokens else 0.0
    seconds = measured.computing_s * rows / measured.rows
    gpu_seconds = (seconds * (1 - spread), seconds, seconds * (1 + spread))
    hours = _each(gpu_seconds, 1 / 3600)
    outputs = rows * len(measured.output_tokens) / measured.rows * mean
    return Duration(
        output_tokens=(round(outputs * (1 - spread)), round(outputs), round(outputs * (1 + spread))),
        seconds=_each(gpu_seconds, 1 / gpus),
        gpus=gpus,
        gpu_hours=hours,
        money=None if price_per_gpu_hour is None else _each(hours, price_per_gpu_hour),
        source=f"measured here on {measured.rows:,} rows at once; a whole job computes more at once and may be faster",
    )


def _spread(lengths: Sequence[int]) -> float:
    """How far the mean of all may be from that of these, as a part of it; all of it where one length tells nothing."""
    if not lengths or not sum(lengths):
        return 0.0
    if len(lengths) == 1:
        return 1.0
    return min(1.0, _CONFIDENCE * stdev(lengths) / math.sqrt(len(lengths)) / fmean(lengths))


def _each(values: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    low, likely, high = values
    return low * factor, likely * factor, high * factor
