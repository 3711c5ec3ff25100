"""What was predicted of a job beside what came of it, line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from parquetry.schemas.progress.prediction import Prediction
from parquetry.schemas.progress.states import JobState
from parquetry.tasks.report.duration import duration
from parquetry.tasks.report.outcome import Outcome


def predicted_lines(outcome: Outcome) -> list[dict[str, Any]]:
    """`what`, `predicted` and `actual` of each; `actual` is None until the job is done, and where nothing tells."""
    found = outcome.prediction
    if found is None:
        return []
    is_done = outcome.state == JobState.DONE
    lines = [{"what": what, "predicted": said, "actual": came} for what, said, came in _lines(found, outcome)]
    return lines if is_done else [{**line, "actual": None} for line in lines]


def _lines(found: Prediction, outcome: Outcome) -> Iterator[tuple[str, str, str | None]]:
    yield "rows", f"{found.rows:,}", f"{outcome.rows_done:,}"
    if found.output_tokens[1]:
        yield "output tokens", _range(found.output_tokens, "{:,}".format), _text(outcome.output_tokens, "{:,}".format)
    time = f"time on {found.gpus} {'device' if found.gpus == 1 else 'devices'}, without loading"
    yield time, _range(found.seconds, duration), _text(outcome.active_s, duration)
    hours = None if outcome.gpu_s is None else outcome.gpu_s / 3600
    # what a card waits for its model is paid for too
    yield "GPU hours", _range(found.gpu_hours, _hours), None if hours is None else f"{_hours(hours)}, loading included"
    if found.money is not None:
        price = outcome.price_per_gpu_hour or found.price_per_gpu_hour
        paid = None if hours is None or price is None else hours * price
        yield "money", _range(found.money, "{:,.2f}".format), _text(paid, "{:,.2f}".format)
    yield "by", found.source, None


def _range(values: tuple[float, float, float], text: Callable[[Any], str]) -> str:
    low, likely, high = map(text, values)
    return likely if low == high else f"{likely}, from {low} to {high}"


def _text(value: float | None, text: Callable[[Any], str]) -> str | None:
    return None if value is None else text(value)


def _hours(hours: float) -> str:
    return f"{hours:.3g}"
