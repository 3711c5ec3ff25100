"""gateway."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from parquetry.broker import open_ledger
from parquetry.commands.machine import PANEL
from parquetry.spec_file import read_mapping


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(rich_help_panel=PANEL)(gateway)


def gateway(
    spec: Annotated[Path, typer.Argument(metavar="FILE", help="Users, models, limits and the root, in YAML or JSON.")],
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to bind.")] = 8322,
) -> None:
    """Serve OpenAI's files and batches over the queue, to users with tokens."""
    from parquetry.gateway.gateway import serve
    from parquetry.gateway.gateway_spec import GatewaySpec

    parsed = GatewaySpec.parse(read_mapping(spec))
    serve(parsed, open_ledger(), host=host, port=port, announce=partial(print, "Gateway on", flush=True))
