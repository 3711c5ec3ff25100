"""Python's search for garbage, which imports make hardly any of."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def not_searched() -> Iterator[None]:
    """For imports of torch and transformers: looking through all that they make, again and again, takes a tenth."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
