"""The process that renders templates: rows come in and texts go out, within limits that end it and not its parent.

`python -m parquetry.workers.preparation.rendering.program`, with the socket to its parent as standard input. It loads
no torch, no Arrow and no settings, and ends when its parent does.
"""

from __future__ import annotations

import marshal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from parquetry.schemas.errors import RowError
from parquetry.workers.preparation.rendering.answers import Answers, opened_frame, refused_frame
from parquetry.workers.preparation.rendering.chat_text import ChatText
from parquetry.workers.preparation.rendering.dialogue import Dialogue
from parquetry.workers.preparation.rendering.failures import RefusedTemplate, TemplateFault
from parquetry.workers.preparation.rendering.limits import PARSE_CPU_S, RENDER_BYTES, RENDER_CPU_S, Limits
from parquetry.workers.preparation.rendering.prompt_text import PromptText
from parquetry.workers.process.wire import Frame, FrameBuffer, receive, send

#: templates kept parsed; a runner serves a few jobs in turn
_KEPT = 16
_MEMORY = f"more than {RENDER_BYTES >> 20} MiB of memory"
#: makes the text of one row; what the row's messages name as images is added to the list
Render = Callable[[Any, list[Any]], str]
#: parses a definition; beside it comes what is to be known of the template
Open = Callable[..., tuple[Render, dict[str, Any]]]


class Programs:
    """The templates that were asked for, parsed."""

    def __init__(self) -> None:
        self._opened: dict[bytes, tuple[Render, dict[str, Any]]] = {}

    def get(self, definition: bytes) -> tuple[Render, dict[str, Any]]:
        """How rows are rendered, and what is to be known of the template. Raises RefusedTemplate."""
        if definition not in self._opened:
            while len(self._opened) >= _KEPT:
                del self._opened[next(iter(self._opened))]
            self._opened[definition] = _open(**marshal.loads(definition))
        return self._opened[definition]


def _open(kind: str, **definition: Any) -> tuple[Render, dict[str, Any]]:
    try:
        return _KINDS[kind](**definition)
    except RefusedTemplate:
        raise
    except MemoryError:
        raise RefusedTemplate(f"parsing it takes {_MEMORY}") from None
    except RecursionError:
        raise RefusedTemplate("it is nested too deeply") from None
    # the compiler of Python refuses some of what Jinja makes of a template, each thing with an error of its own
    except Exception as error:  # noqa: BLE001
        raise RefusedTemplate(str(error)[:200] or type(error).__name__) from None


def _prompt(source: str) -> tuple[Render, dict[str, Any]]:
    text = PromptText(source)
    names = {name: sorted(value) if isinstance(value, frozenset) else value for name, value in vars(text.names).items()}
    return lambda row, _: text.render(row), names


def _chat(**definition: Any) -> tuple[Render, dict[str, Any]]:
    chat = ChatText(**definition)
    facts = {"takes_content_parts": chat.takes_content_parts, "shows_images": chat.shows_images}
    return lambda row, _: chat.render(*row), {"uses": sorted(chat.uses), **facts}


def _dialogue(**definition: Any) -> tuple[Render, dict[str, Any]]:
    dialogue = Dialogue(**definition)
    return lambda row, images: dialogue.render(row[0], row[1], images), {}


_KINDS: dict[str, Open] = {
    "prompt": _prompt,
    "chat": _chat,
    "dialogue": _dialogue,
}


def answer(programs: Programs, limits: Limits, request: Frame) -> Iterator[Frame]:
    """What goes back for one request: that the template is parsed, then the texts in order, or that it is refused."""
    definition, rows = marshal.loads(request.payload)
    limits.begin(PARSE_CPU_S, time.monotonic())
    try:
        render, facts = programs.get(definition)
    except RefusedTemplate as error:
        yield refused_frame(str(error))
        return
    finally:
        limits.end()
    yield opened_frame(facts)
    answers = Answers()
    limits.begin(RENDER_CPU_S, time.monotonic())
    for row in rows:
        now = time.monotonic()
        limits.row(now)
        _add(answers, render, row)
        if request.header["alone"] or answers.are_due(now):
            limits.end()
            yield answers.take()
            limits.begin(RENDER_CPU_S, time.monotonic())
    limits.end()
    yield answers.take(is_last=True)


def _add(answers: Answers, render: Render, row: Any) -> None:
    images: list[Any] = []
    try:
        answers.add(render(row, images).encode(), images)
    except RowError as error:
        answers.fail("row", str(error))
    except TemplateFault as error:
        answers.fail("template", str(error))
    except UnicodeEncodeError:
        answers.fail("template", "the prompt is not valid UTF-8")
    except MemoryError:
        answers.fail("template", f"rendering takes {_MEMORY}")


def main() -> int:
    """Serve the parent until it closes its end."""
    connection, buffer = socket.socket(fileno=0), FrameBuffer()
    programs, limits = Programs(), Limits()
    limits.confine()
    while (requests := receive(connection, buffer)) is not None:
        for request in requests:
            for frame in answer(programs, limits, request):
                send(connection, frame)
    return 0


if __name__ == "__main__":
    sys.exit(main())
