"""What `plan` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parquetry.tasks.report.duration import duration as duration_text
from parquetry.terminal.display import console, plain_rows, print_json, rows_table, safe_text
from parquetry.workers.loading.devices.byte_size import format_bytes

if TYPE_CHECKING:
    import pyarrow as pa

    from parquetry.producers.plan.device_memory import DeviceMemory
    from parquetry.producers.plan.planning import Plan
    from parquetry.producers.plan.sampled_prompts import ErrorExample
    from parquetry.schemas.progress.prediction import Prediction


def print_plan(plan: Plan, preview: pa.Table | None, *, as_json: bool) -> None:
    """The plan line by line, then the preview and what is predicted of the whole job; or all of it as JSON."""
    numbers = plan.model_dump(mode="json")
    if as_json:
        print_json({**numbers, **({} if preview is None else {"sample": plain_rows(preview)})})
        return
    screen = console()
    del numbers["prediction"], numbers["device_memory"]
    if plan.device_memory is not None:
        numbers["device_memory"] = _memory_lines(plan.device_memory)
    warnings = [*filter(None, [numbers.pop("existing_output")]), *numbers.pop("warnings")]
    numbers["sampled_errors"] = [_error(kind, example) for kind, example in plan.sampled_errors.items()]
    numbers["prompt_lengths"] = ", ".join(f"{each.prompts:,} up to {each.up_to:,}" for each in plan.prompt_lengths)
    width = max(map(len, numbers))
    for name, value in numbers.items():
        for line in value if isinstance(value, list) and value else [value]:
            screen.print(f"{name.replace('_', ' '):<{width}}  {_shown(line)}")
    for warning in warnings:
        screen.print(f"warning: {safe_text(warning, limit=1000)}")
    if preview is not None:
        screen.print(rows_table(preview))
    for line in () if plan.prediction is None else _prediction_lines(plan.prediction):
        screen.print(line)


def _error(kind: str, example: ErrorExample) -> str:
    return f"{example.rows:,} rows: {kind} (row {example.row:,}: {example.error})"


def _memory_lines(memory: DeviceMemory) -> list[str]:
    return [
        f"weights {format_bytes(memory.weights)}, largest step {format_bytes(memory.workspace)}, cache "
        f"{format_bytes(memory.cache)}",
        f"the cache holds {memory.cache_tokens:,} tokens of {memory.cache_bytes_per_token:,} bytes: "
        f"{memory.rows_at_once:,} rows at once",
    ]


def _prediction_lines(found: Prediction) -> list[str]:
    low, likely, high = map(duration_text, found.seconds)
    cards = "" if found.gpus == 1 else f" on {found.gpus} cards"
    lines = [f"time: {likely}{cards}, from {low} to {high}; {found.source}"]
    least, usual, most = found.gpu_hours
    lines.append(f"GPU hours: {usual:.3g}, from {least:.3g} to {most:.3g}")
    if found.money is not None:
        cheap, mean, dear = found.money
        lines.append(f"money: {mean:,.2f}, from {cheap:,.2f} to {dear:,.2f}")
    if found.output_tokens[1]:
        few, expected, many = found.output_tokens
        lines.append(f"output tokens: {expected:,}, from {few:,} to {many:,}")
    return lines


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return safe_text(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
