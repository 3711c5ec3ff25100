"""init, schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from parquetry.schemas.errors import BadInputError, InvalidValueError, suggestion
from parquetry.schemas.spec.job import Task

PANEL = "Run a job"
#: YAML language servers, which most editors have, read it
_MODELINE = "# yaml-language-server: $schema={}\n"


class JobFileTakenError(BadInputError):
    """The job file {path} cannot be written: {reason}. Name another one."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (init, schema):
        app.command(rich_help_panel=PANEL)(command)


def complete_tasks(incomplete: str) -> list[str]:
    """Tasks that begin so."""
    return [task for task in get_args(Task) if task.startswith(incomplete)]


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The job file to write.")] = Path("job.yaml"),
    task: Annotated[
        str, typer.Option(help="generate, classify, embed or score.", autocompletion=complete_tasks)
    ] = "generate",
    input: Annotated[str | None, typer.Option(help="The input; its columns are looked at.")] = None,
    model: Annotated[str | None, typer.Option(help="A model's folder or hub id.")] = None,
    output: Annotated[str, typer.Option(help="The folder that the output goes to.")] = "out/",
    with_schema: Annotated[
        bool, typer.Option("--schema", help="Also write job.schema.json beside it, by which editors complete keys.")
    ] = False,
) -> None:
    """Write a first job file, filled in as far as the input tells; nothing is overwritten."""
    from parquetry.first_job import FirstJob

    if task not in get_args(Task):
        reason = f"it is one of {', '.join(get_args(Task))}{suggestion(task, get_args(Task))}"
        raise InvalidValueError(key="task", value=repr(task), reason=reason)
    text = FirstJob(task=cast(Task, task), input=input, model=model, output=output).text()
    _write_new(file, (_MODELINE.format("job.schema.json") if with_schema else "") + text)
    if with_schema:
        (file.parent / "job.schema.json").write_text(_schema_text(), "utf-8")
    print(file)


def schema() -> None:
    """Print the job file as JSON Schema, by which editors complete and check its keys."""
    print(_schema_text(), end="")


def _schema_text() -> str:
    import json

    from parquetry.job_schema import job_schema

    return json.dumps(job_schema(), ensure_ascii=False, indent=2) + "\n"


def _write_new(path: Path, text: str) -> None:
    """Raises JobFileTakenError where something lies there, or nothing can."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise JobFileTakenError(path=path, reason="it is there already") from None
    except OSError as error:
        raise JobFileTakenError(path=path, reason=error.strerror or str(error)) from None
