"""The `parquetry` command as a process: `python -m parquetry` is the same."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import NoReturn

NO_TEXTS = """parquetry: Python runs with -OO, which takes away the texts of help and of errors; \
run it without (PYTHONOPTIMIZE=1 is fine)."""


def run() -> NoReturn:
    """Run the command line, and end."""
    if sys.flags.optimize > 1:
        sys.stderr.write(NO_TEXTS + "\n")
        os._exit(2)
    from parquetry.cli import main

    try:
        main()
    except SystemExit as ended:
        leave(ended.code)


def leave(code: int | str | None) -> NoReturn:
    """End with a code, as sys.exit counts them, but without the interpreter's last steps.

    Arrow's threads may hold the last reference to what they read of a Python file. Letting go of it while the
    interpreter ends aborts the process, after all its work is done.
    """
    if isinstance(code, str):
        print(code, file=sys.stderr)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        # whoever read it may have left
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    run()
