"""A job as a piece of HTML that needs nothing else: no script, no style sheet, no file."""

from __future__ import annotations

from html import escape

from parquetry.monitor.job_view import JobView
from parquetry.schemas.progress.states import JobPhase
from parquetry.terminal.display import failure_lines, safe_text
from parquetry.terminal.job_lines import error_lines, facts, percent, worker_text

#: readable on white and on black, as notebooks have both
COLOURS = {
    JobPhase.RUNNING: "#0d86b8",
    JobPhase.DONE: "#1a8f4c",
    JobPhase.FAILED: "#d13f3f",
    JobPhase.STALLED: "#d13f3f",
}
OTHER_COLOUR = "#b07b0c"
SHOWN_WORKERS = 4
_CARD = (
    "font: 13px/1.5 system-ui, sans-serif; max-width: 46em; padding: .6em .9em; border-radius: 6px; "
    "border: 1px solid rgba(127, 127, 127, .4); font-variant-numeric: tabular-nums"
)
_TRACK = "height: 6px; margin: .4em 0; border-radius: 3px; background: rgba(127, 127, 127, .25); overflow: hidden"
_QUIET = "opacity: .7"
_CUT = "overflow: hidden; text-overflow: ellipsis; white-space: nowrap"


def job_html(view: JobView, note: str = "") -> str:
    """Name, phase, bar, numbers, workers and what went wrong; with a `note` below them."""
    colour = COLOURS.get(view.phase.phase, OTHER_COLOUR)
    rows = [_head(view, colour), _bar(view, colour), f"<div>{escape(' · '.join(facts(view)))}</div>"]
    if view.phase.reason:
        rows.append(f'<div style="color: {colour}">{escape(safe_text(view.phase.reason, 400))}</div>')
    workers = list(zip(view.workers, view.engines, strict=True))[:SHOWN_WORKERS]
    rows += [_line(worker_text(worker, engine), _QUIET) for worker, engine in workers]
    rows += [_line(line, f"color: {COLOURS[JobPhase.FAILED]}") for line in _faults(view)]
    rows += [_line(f"Output: {safe_text(view.status.output, limit=4096)}", f"{_QUIET}; {_CUT}")]
    rows += [_line(note, "font-weight: 600")] if note else []
    return f'<div class="parquetry-job" style="{_CARD}">{"".join(rows)}</div>'


def _head(view: JobView, colour: str) -> str:
    status = view.status
    name = escape(safe_text(status.name or status.job))
    model = escape(safe_text(status.model.rstrip("/").rpartition("/")[2]))
    phase = f'<b style="color: {colour}">{escape(view.phase.phase.value)}</b>'
    left = f'<span style="{_CUT}"><b>{escape(status.task)}</b> <span style="{_QUIET}">{model} · {name}</span></span>'
    return f'<div style="display: flex; justify-content: space-between; gap: 1em">{left}{phase}</div>'


def _bar(view: JobView, colour: str) -> str:
    width = percent(view.progress.fraction)
    inner = f'<div style="width: {width}; height: 100%; background: {colour}"></div>'
    return f'<div role="progressbar" aria-valuenow="{width}" style="{_TRACK}">{inner}</div>'


def _faults(view: JobView) -> list[str]:
    return [line.strip() for line in (*error_lines(view.status.errors), *failure_lines(view.status))]


def _line(text: str, style: str) -> str:
    return f'<div style="{style}">{escape(text)}</div>'
