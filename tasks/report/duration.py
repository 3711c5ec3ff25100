"""A time as people read it, in reports and terminals."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """1 h 02 min, 3 min 20 s, 4.2 s; a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
