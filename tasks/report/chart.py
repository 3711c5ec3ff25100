"""Lines over time as SVG: no script, no file beside it; colours are classes of the report's style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape

WIDTH, HEIGHT = 720, 170
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 10, 24
Line = tuple[str, Sequence[float | None]]


def chart(title: str, at: Sequence[float], lines: Sequence[Line], text_of: Callable[[float], str]) -> str:
    """An SVG picture of some lines; empty where nothing was measured. `at` are seconds since the Unix epoch."""
    known = [(name, values) for name, values in lines if any(value is not None for value in values)]
    if len(at) < 2 or not known:
        return ""
    top = max(value for _, values in known for value in values if value is not None) or 1.0
    ticks = "".join(_tick(share, text_of(share * top)) for share in (0.0, 0.5, 1.0))
    paths = "".join(_path(number, at, values, top) for number, (_, values) in enumerate(known))
    keys = " ".join(f'<tspan class="k{number}">■</tspan> {escape(name)}' for number, (name, _) in enumerate(known))
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT + 18}" role="img" '
        f'aria-label="{escape(title)}">{ticks}{paths}{_times(at)}'
        f'<text x="{LEFT}" y="{HEIGHT + 14}">{keys}</text></svg></figure>'
    )


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _tick(share: float, text: str) -> str:
    y = _y(share)
    return (
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}">{escape(text)}</text>'
    )


def _path(number: int, at: Sequence[float], values: Sequence[float | None], top: float) -> str:
    span = (at[-1] - at[0]) or 1.0
    places = (
        (LEFT + (when - at[0]) / span * (WIDTH - LEFT - RIGHT), _y(value / top))
        for when, value in zip(at, values, strict=True)
        if value is not None
    )
    return f'<polyline class="c{number}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'


def _times(at: Sequence[float]) -> str:
    first, last = (datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S") for seconds in (at[0], at[-1]))
    y = HEIGHT - 6
    end = f'<text class="end" x="{WIDTH - RIGHT}" y="{y}">{last} UTC</text>'
    return f'<text x="{LEFT}" y="{y}">{first}</text>{end}'
