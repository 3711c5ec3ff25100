"""Renders rows in a process with limits, which this process starts once and keeps; an overrun is its row's error."""

from __future__ import annotations

import atexit
import marshal
import threading
from collections.abc import Sequence
from typing import Any

from parquetry.schemas.errors import RetryableError, TemplateError
from parquetry.workers.preparation.rendering.answers import Failed, Rendered
from parquetry.workers.preparation.rendering.child import ChildEnded, RenderChild

#: rows that are with the rendering process at once
ROWS_AT_ONCE = 2048
#: how the error of a row begins that ended the process
OVERRUN = "the template cannot be rendered"


class RenderingLostError(RetryableError):
    """The process that renders prompts went away: {reason}."""


class Renderer:
    """The rendering process of this one, shared by its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: RenderChild | None = None

    def facts(self, definition: bytes) -> dict[str, Any]:
        """What is known of a template. Raises TemplateError for one that cannot be parsed within the limits."""
        with self._lock:
            return _Asked(self._living(), definition, (), alone=False).facts

    def render(self, definition: bytes, rows: Sequence[Any]) -> list[Rendered | Failed]:
        """The prompt of each row. Raises TemplateError as `facts` does, RenderingLostError."""
        found: list[Rendered | Failed] = []
        for start in range(0, len(rows), ROWS_AT_ONCE):
            found += self._some(definition, rows[start : start + ROWS_AT_ONCE])
        return found

    def _some(self, definition: bytes, rows: Sequence[Any]) -> list[Rendered | Failed]:
        found: list[Rendered | Failed] = []
        # which row ended the process is known when each is answered before the next begins
        alone = len(rows) == 1
        while len(found) < len(rows):
            with self._lock:
                asked = _Asked(self._living(), definition, rows[len(found) :], alone=alone)
            found += asked.answers
            if asked.overrun is not None and alone:
                found.append(Failed("template", f"{OVERRUN}: {asked.overrun}"))
            alone = True
        return found

    def _living(self) -> RenderChild:
        if self._child is None or not self._child.is_usable:
            self._child = RenderChild()
        return self._child

    def close(self) -> None:
        """End the process; the next row starts another."""
        if self._child is not None:
            self._child.close()
        self._child = None


class _Asked:
    """The answers to one request, and why they end early."""

    def __init__(self, child: RenderChild, definition: bytes, rows: Sequence[Any], *, alone: bool) -> None:
        self.answers: list[Rendered | Failed] = []
        self.overrun: str | None = None
        self._facts: dict[str, Any] | None = None
        try:
            for item in child.ask(marshal.dumps((definition, list(rows))), alone=alone):
                self._take(item)
        except ChildEnded as ended:
            self._end(ended)
        if self.overrun is None and len(self.answers) != len(rows):
            child.close()
            raise RenderingLostError(reason=f"it answered {len(self.answers)} of {len(rows)} rows; this is a bug")

    @property
    def facts(self) -> dict[str, Any]:
        assert self._facts is not None
        return self._facts

    def _take(self, item: dict[str, Any] | list[Rendered | Failed]) -> None:
        if not isinstance(item, dict):
            self.answers += item
        elif "refused" in item:
            raise TemplateError(reason=item["refused"])
        else:
            self._facts = item["opened"]

    def _end(self, ended: ChildEnded) -> None:
        if not ended.is_of_template:
            raise RenderingLostError(reason=str(ended)) from None
        if self._facts is None:
            raise TemplateError(reason=f"it cannot be parsed: {ended}") from None
        self.overrun = str(ended)


def definition_of(kind: str, **parts: Any) -> bytes:
    """A template with all that it is given beside the rows, as the rendering process knows it by."""
    return marshal.dumps({"kind": kind, **parts})


#: of this process
renderer = Renderer()
atexit.register(renderer.close)
