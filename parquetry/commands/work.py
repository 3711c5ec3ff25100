"""run, plan, submit."""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import Annotated

import typer

from parquetry.api import calls as api
from parquetry.commands.arguments import AsJson, CpuEngines, Overrides, SpecPath
from parquetry.commands.completion import complete_cards
from parquetry.schemas.errors import ExitCode
from parquetry.schemas.progress.states import JobState
from parquetry.spec_file import load_spec, parse_override

PANEL = "Run a job"
SAMPLE_ROWS = 3


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (run, plan, submit):
        app.command(rich_help_panel=PANEL)(command)


def run(
    spec: SpecPath,
    overrides: Overrides = None,
    workers: CpuEngines = None,
    retry_rows: Annotated[
        bool, typer.Option("--retry-rows", help="Compute the error rows of the job, which has ended, anew.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a whole job on this machine: queue, workers, progress, result.

    Ctrl-C stops it in order; the same command continues where it stopped. With --retry-rows what --set says is for the
    error rows alone.
    """
    from parquetry.local.site import OwnSite
    from parquetry.local.summary import print_run, run_as_dict
    from parquetry.terminal.bars import live_display
    from parquetry.terminal.display import console, print_json

    try:
        changes = dict(map(parse_override, overrides or ())) if retry_rows else None
        job = load_spec(spec, () if retry_rows else overrides or ())
        display = live_display(console(stderr=True))
        finished = api.run_at(OwnSite(), job, display, workers=workers, retry_rows=changes)
    except KeyboardInterrupt:
        print("Stopped. The same command continues from the finished rows.", file=sys.stderr)
        raise
    print_json(run_as_dict(finished)) if as_json else print_run(finished, SAMPLE_ROWS)
    raise typer.Exit(ExitCode.DONE if finished.status.state is JobState.DONE else ExitCode.FAILED_SHARDS)


def plan(
    spec: SpecPath,
    overrides: Overrides = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Also run this many rows for real and show them.")] = None,
    price_per_gpu_hour: Annotated[
        float | None, typer.Option(min=0.0, help="Also say what the job costs at this price; by default its budget's.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many cards the job is to have.")] = 1,
    card: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Plan for this card, such as h100, in place of the one here.",
            autocompletion=complete_cards,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a job would do, without doing it: rows, shards, tokens, memory, and time and money.

    Time and money come from rows that are run here (--rows), else from earlier jobs of the same model on such a card,
    else from what the card can do at most.
    """
    from parquetry.local.preview import preview_rows
    from parquetry.producers.plan.predictions import PLANNED
    from parquetry.terminal.plan_lines import print_plan

    wanted, preview = load_spec(spec, overrides or ()), None
    planned = partial(api.plan, wanted, card=card, gpus=gpus, price_per_gpu_hour=price_per_gpu_hour)
    # what is wrong with a job is said before any row of it runs
    made = planned()
    if rows is not None:
        preview = preview_rows(wanted, rows)
        made = planned(measured=preview.measured)
    if made.prediction is not None:
        # whoever submits the job stores it with the job
        PLANNED.put(made.job, made.prediction)
    print_plan(made, None if preview is None else preview.table, as_json=as_json)


def submit(spec: SpecPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Register a job for the fleet's workers and print its id. The same spec again is the same job."""
    from parquetry.terminal.display import print_json

    # what the broker may lose, and that a job starts over
    logging.basicConfig(format="parquetry: warning: %(message)s", level=logging.WARNING)
    job = api.submit(load_spec(spec, overrides or ()))
    if as_json:
        print_json({"job": job.id, "created": job.is_new, "output": job.output})
    else:
        known = f"Extended by {job.rows_added:,} rows:" if job.rows_added else "Already known:"
        print(f"{'Submitted' if job.is_new else known} {job.id}")
