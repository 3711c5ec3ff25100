"""purge."""

from __future__ import annotations

from typing import Annotated

import typer

from parquetry.commands.arguments import AsJson
from parquetry.commands.completion import complete_jobs
from parquetry.schemas.errors import BadInputError

DAY_S = 86400.0


class WhatToPurgeError(BadInputError):
    """Say what to purge: a job, or --older-than DAYS, and not both."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Follow and steer jobs")(purge)


def purge(
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", help="A job that has ended.", autocompletion=complete_jobs)
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="All that ended at least so many days ago.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Have the queue forget jobs that have ended; outputs stay. It does so by itself after `keep_days`."""
    from parquetry.monitor.serving.audit import note_change, user_here
    from parquetry.terminal.display import print_json

    if (job is None) == (older_than is None):
        raise WhatToPurgeError()
    purged = _purge_older(older_than) if older_than is not None else [_purge_one(str(job))]
    for name in purged:
        note_change("purge", name, user_here())
    if as_json:
        print_json({"purged": purged})
        return
    print(*(f"{name} is forgotten." for name in purged), sep="\n") if purged else print("No job is that old.")


def _purge_one(name: str) -> str:
    from parquetry.api.calls import job
    from parquetry.broker import open_ledger
    from parquetry.producers.purge import purge

    found = job(name).id
    purge(open_ledger(), found)
    return found


def _purge_older(days: float) -> list[str]:
    from parquetry.broker import open_ledger
    from parquetry.producers.purge import purge_older

    return purge_older(open_ledger(), days * DAY_S)
