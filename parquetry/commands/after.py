"""errors, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parquetry.commands.arguments import AsJson
from parquetry.commands.completion import complete_jobs
from parquetry.schemas.errors import BadInputError

PANEL = "Follow and steer jobs"
JobOrOutput = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="The job's id, its beginning, its name or @last; or its output folder, which needs no broker.",
        autocompletion=complete_jobs,
    ),
]


class ReportTargetError(BadInputError):
    """The report cannot be written to {path}: {reason}."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (errors, report):
        app.command(rich_help_panel=PANEL)(command)


def errors(job: JobOrOutput, as_json: AsJson = False) -> None:
    """Show why rows failed: by reason, with counts, row numbers and some of the rows."""
    from parquetry.finished_work import FinishedWork
    from parquetry.terminal.display import print_json
    from parquetry.terminal.error_report import error_report

    work = FinishedWork.open(job)
    groups = work.errors()
    if as_json:
        print_json({"job": work.record.job, "groups": [group.model_dump() for group in groups]})
        return
    for line in error_report(groups, work.record.shard_plan.num_rows):
        print(line)


def report(
    job: JobOrOutput,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Where it goes; by default JOB.html in this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write what ran and how it went as one self-contained page; --json prints it instead."""
    from parquetry.finished_work import FinishedWork
    from parquetry.tasks.report.page import report_page
    from parquetry.terminal.display import print_json

    made = FinishedWork.open(job).report()
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    target = to or Path(f"{made.outcome.job}.html")
    try:
        target.write_text(report_page(made), "utf-8")
    except OSError as error:
        raise ReportTargetError(path=target, reason=error.strerror or str(error)) from None
    print(target)
