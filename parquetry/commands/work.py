"""run, plan, submit."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from parquetry.commands.arguments import AsJson, CpuEngines, Overrides, SpecPath
from parquetry.schemas.errors import ExitCode
from parquetry.schemas.states import JobState

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
    as_json: AsJson = False,
) -> None:
    """Run a whole job on this machine: queue, workers, progress, result.

    Ctrl-C stops it in order; the same command continues where it stopped.
    """
    from parquetry.local_run import run_job
    from parquetry.spec_file import load_spec
    from parquetry.summary import print_run, run_as_dict

    job = load_spec(spec, overrides or ())
    try:
        finished = run_job(job, workers=workers, show=True)
    except KeyboardInterrupt:
        print("Stopped. The same command continues from the finished shards.", file=sys.stderr)
        raise
    _print_json(run_as_dict(finished)) if as_json else print_run(finished, SAMPLE_ROWS)
    raise typer.Exit(ExitCode.DONE if finished.status.state is JobState.DONE else ExitCode.FAILED_SHARDS)


def plan(
    spec: SpecPath,
    overrides: Overrides = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Also run this many rows for real and show them.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a job would do, without doing it: rows, shards, tokens, memory."""
    from parquetry.producers.planning import plan as make_plan
    from parquetry.spec_file import load_spec
    from parquetry.trial import print_plan, trial

    job = load_spec(spec, overrides or ())
    made = make_plan(job)
    sample = trial(job, rows) if rows else None
    print_plan(made, sample, as_json=as_json)


def submit(spec: SpecPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Register a job for the fleet's workers and print its id. The same spec again is the same job."""
    from parquetry.broker import open_ledger
    from parquetry.producers.submission import submit as register_job
    from parquetry.spec_file import load_spec
    from parquetry.tasks.broker.settings_check import what_may_be_lost

    job = load_spec(spec, overrides or ())
    ledger = open_ledger()
    for sentence in what_may_be_lost(ledger.client):
        print(f"parquetry: warning: {sentence}", file=sys.stderr)
    submission = register_job(job, ledger)
    if as_json:
        output = submission.record.spec.output.path
        _print_json({"job": submission.job, "created": submission.created, "output": output})
    else:
        print(f"{'Submitted' if submission.created else 'Already known:'} {submission.job}")


def _print_json(data: Any) -> None:
    from parquetry.display import print_json

    print_json(data)
