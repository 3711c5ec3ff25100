"""Whether Python runs in a notebook, and how something is shown there that changes afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

#: shows an object that has a `_repr_mimebundle_`; it returns what shows another one in its place
Output = Callable[[Any], Callable[[Any], None]]


def notebook_output() -> Output | None:
    """How a cell's output is shown; None outside of a notebook, a plain IPython terminal included.

    IPython is not imported: where a notebook runs, it is there.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return None if shell is None or not hasattr(shell, "kernel") else _display


def _display(shown: Any) -> Callable[[Any], None]:
    from IPython.display import display

    handle = display(shown, display_id=True)
    update: Callable[[Any], None] = handle.update
    return update
