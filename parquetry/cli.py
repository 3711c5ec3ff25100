"""The `parquetry` command: parses, calls, and turns every outcome into one exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from parquetry.commands import after, convert, first, gateway, jobs, purge, work
from parquetry.commands import machine as node
from parquetry.schemas import __version__
from parquetry.schemas.errors import ExitCode, ParquetryError

#: what the system refuses for want of room, rights or handles
OF_THE_MACHINE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO}
)

app = typer.Typer(
    name="parquetry",
    help="Offline batch inference over Parquet: every input row exactly once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
first.register(app)
work.register(app)
jobs.register(app)
after.register(app)
node.register(app)
gateway.register(app)
convert.register(app)
purge.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"parquetry {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Taken by main() before the commands are parsed; here for --help."""


def main() -> NoReturn:
    """Run the command line and exit; every exit code is decided here."""
    # --debug is welcome anywhere on the line
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    # a plain kill stops in the same order as Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except Exception as error:
        # the last resort of the process: whatever is not caught here is a traceback
        if debug:
            raise
        code = _explain(error)
    sys.exit(code)


def _explain(error: Exception) -> ExitCode:
    if isinstance(error, ParquetryError):
        print(f"parquetry: {error}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        # whoever read our output has left; the interpreter must not try to flush it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        where = error.filename or "what it prints"
        print(f"parquetry: {where}: {error.strerror}; another try may do once the machine allows it.", file=sys.stderr)
        return ExitCode.UNUSABLE_ENVIRONMENT
    print(
        f"parquetry: unexpected {type(error).__name__}: {error}; run it again with --debug for the traceback.",
        file=sys.stderr,
    )
    return ExitCode.UNUSABLE_ENVIRONMENT
