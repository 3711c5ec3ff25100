"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parquetry.commands.completion import complete_jobs, complete_keys

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="The job spec: a YAML or JSON file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the spec, e.g. model.quantization=nf4.",
        autocompletion=complete_keys,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobName = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="The job's id as `submit` printed it, the beginning of it, its name, or @last.",
        autocompletion=complete_jobs,
    ),
]
CpuEngines = Annotated[int | None, typer.Option(min=1, help="Use the CPU only, with this many engines.")]
