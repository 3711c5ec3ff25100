"""The live card of a job below a notebook's cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from parquetry.monitor.job_view import JobView
from parquetry.monitor.progress.in_flight import WorkInFlight
from parquetry.notebook.page import job_html
from parquetry.notebook.shell import Output
from parquetry.schemas.progress.status import JobStatus
from parquetry.terminal.bars import Silent
from parquetry.terminal.job_lines import in_flight_line, summary


class Card(Silent):
    """One card, updated in place when something in it has changed."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._update: Callable[[Any], None] | None = None
        self._shown = ""
        self._view: JobView | None = None

    def show(self, view: JobView) -> None:
        """Draw the job as it is now."""
        self._view = view
        self._draw(CardOutput(job_html(view), f"{view.status.job} {summary(view)}"))

    def stop(self, status: JobStatus, sentence: str) -> None:
        """Say below the card what becomes of a job that nobody waits for any more."""
        if self._view is not None:
            note = f"{sentence} {in_flight_line(WorkInFlight.of(status))}"
            self._draw(CardOutput(job_html(self._view, note), note))

    def _draw(self, card: CardOutput) -> None:
        if card.html == self._shown:
            return
        self._shown = card.html
        if self._update is None:
            self._update = self._output(card)
        else:
            self._update(card)


class CardOutput:
    """A card as one moment has it: HTML, and a line of text for what shows none."""

    def __init__(self, html: str, text: str) -> None:
        self.html = html
        self.text = text

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}
