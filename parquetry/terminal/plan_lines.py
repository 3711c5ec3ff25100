"""What `plan` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parquetry.terminal.display import console, print_json, safe_text, sample_table

if TYPE_CHECKING:
    import pyarrow as pa

    from parquetry.producers.planning import Plan


def print_plan(plan: Plan, sample: pa.Table | None, *, as_json: bool) -> None:
    """The plan line by line, then the sample; or both as JSON."""
    numbers = plan.model_dump(mode="json")
    if as_json:
        print_json(numbers if sample is None else {**numbers, "sample": sample.to_pylist()})
        return
    screen = console()
    warnings = numbers.pop("warnings")
    width = max(map(len, numbers))
    for name, value in numbers.items():
        screen.print(f"{name.replace('_', ' '):<{width}}  {_shown(value)}")
    for warning in warnings:
        screen.print(f"warning: {safe_text(warning, limit=1000)}")
    if sample is not None:
        screen.print(sample_table(sample))


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return safe_text(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
