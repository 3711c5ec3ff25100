"""`plan`: the numbers, and with --rows a few rows run for real into a folder that is thrown away."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

from parquetry.display import console, failure_lines, print_json, safe_text, sample_table
from parquetry.schemas.errors import ExitCode, ParquetryError
from parquetry.schemas.job import JobSpec
from parquetry.schemas.states import JobState

if TYPE_CHECKING:
    import pyarrow as pa

    from parquetry.producers.planning import Plan


class TrialFailedError(ParquetryError):
    """The first {rows} rows did not run: {reason}"""

    exit_code = ExitCode.FAILED_SHARDS


def trial(spec: JobSpec, rows: int) -> pa.Table:
    """The output of the first `rows` rows, run for real. Raises TrialFailedError."""
    from parquetry.local_run import run_job
    from parquetry.output import read_output

    with tempfile.TemporaryDirectory(prefix="parquetry-trial-") as folder:
        finished = run_job(limited(spec, rows, folder), show=True)
        if finished.status.state is not JobState.DONE:
            raise TrialFailedError(rows=rows, reason="; ".join(failure_lines(finished.status)))
        return read_output(folder)


def limited(spec: JobSpec, rows: int, folder: str) -> JobSpec:
    """`spec` on its first rows only, written to `folder`; nobody is notified."""
    limit = min(rows, spec.input.limit or rows)
    return spec.model_copy(
        update={
            "input": spec.input.model_copy(update={"limit": limit}),
            "output": spec.output.model_copy(update={"path": folder}),
            "notify": [],
        }
    )


def print_plan(plan: Plan, sample: pa.Table | None, *, as_json: bool) -> None:
    """The plan line by line, then the sample; or both as JSON."""
    numbers = plan_as_dict(plan)
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


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """The plan's fields as plain data."""
    return plan.model_dump(mode="json")


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return safe_text(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
