"""What `plan` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parquetry.terminal.display import console, plain_rows, print_json, rows_table, safe_text

if TYPE_CHECKING:
    import pyarrow as pa

    from parquetry.producers.planning import Plan


def print_plan(plan: Plan, preview: pa.Table | None, *, as_json: bool) -> None:
    """The plan line by line, then the preview; or both as JSON."""
    numbers = plan.model_dump(mode="json")
    if as_json:
        print_json(numbers if preview is None else {**numbers, "sample": plain_rows(preview)})
        return
    screen = console()
    warnings = [*filter(None, [numbers.pop("existing_output")]), *numbers.pop("warnings")]
    width = max(map(len, numbers))
    for name, value in numbers.items():
        screen.print(f"{name.replace('_', ' '):<{width}}  {_shown(value)}")
    for warning in warnings:
        screen.print(f"warning: {safe_text(warning, limit=1000)}")
    if preview is not None:
        screen.print(rows_table(preview))


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return safe_text(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
