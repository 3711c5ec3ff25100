"""What the rendering process sends back: texts as one run of UTF-8, and beside them what went wrong.

Its parent takes nothing on trust: a frame is JSON and text, checked as it is read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from parquetry.workers.process.wire import Frame, WireError

#: texts are sent when they have this many bytes, or are this old
_DUE_BYTES = 1 << 20
_DUE_S = 0.1


@dataclass(slots=True)
class Rendered:
    """One row's prompt, and the images that its messages name."""

    text: str
    images: tuple[Any, ...] = ()


@dataclass(slots=True)
class Failed:
    """Why a row has no prompt: by its `template`, or by what is in the `row`."""

    of: str
    reason: str


class Answers:
    """Texts that have not been sent."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._texts: list[bytes] = []
        self._ends: list[int] = []
        self._size = 0
        #: by the number of the row among these
        self._failed: dict[int, tuple[str, str]] = {}
        self._images: dict[int, list[Any]] = {}
        self._begun = time.monotonic()

    def add(self, text: bytes, images: list[Any]) -> None:
        """The next row's prompt."""
        if images:
            self._images[len(self._ends)] = images
        self._texts.append(text)
        self._size += len(text)
        self._ends.append(self._size)

    def fail(self, of: str, reason: str) -> None:
        """The next row has none."""
        self._failed[len(self._ends)] = (of, reason)
        self._ends.append(self._size)

    def are_due(self, now: float) -> bool:
        """Whether they should not wait for more."""
        return self._size > _DUE_BYTES or now - self._begun > _DUE_S

    def take(self, *, is_last: bool = False) -> Frame:
        """All of them, and none are left."""
        header = {"ends": self._ends, "failed": self._failed, "images": self._images, "last": is_last}
        frame = Frame(header, b"".join(self._texts))
        self._clear()
        return frame


def opened_frame(facts: dict[str, Any]) -> Frame:
    """The template is parsed, and this is known of it."""
    return Frame({"opened": facts})


def refused_frame(reason: str) -> Frame:
    """The template cannot be used."""
    return Frame({"refused": reason})


def read_answers(frame: Frame) -> list[Rendered | Failed]:
    """The rows of a frame in order. Raises WireError for one that holds no such thing."""
    try:
        failed, images = frame.header["failed"], frame.header["images"]
        texts = [str(frame.payload[start:stop], "utf-8") for start, stop in pairwise([0, *frame.header["ends"]])]
        answers: list[Rendered | Failed] = list(map(Rendered, texts))
        for number, (of, reason) in failed.items():
            answers[int(number)] = Failed(str(of), str(reason))
        for number, named in images.items():
            answers[int(number)] = Rendered(texts[int(number)], tuple(named))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise WireError(f"an answer is not one: {error}") from error
    return answers
