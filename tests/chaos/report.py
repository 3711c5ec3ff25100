"""What a case found, and the tables that are made of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.chaos.plain.fleet import PlainOutcome


@dataclass(kw_only=True)
class Outcome:
    """One line of the table: a fault, how often it was injected, and what became of the rows."""

    fault: str
    #: how often the fault struck
    injected: int
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    #: attempts at a shard that repeated work done before; None where it is not counted
    recomputed: int | None = None
    #: seconds until the slowest victim's work went on; None where nothing had to recover
    slowest_s: float | None = None
    note: str = ""
    violations: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        return not (self.violations or self.lost or self.doubled)

    def require(self, truth: bool, violation: str) -> None:
        if not truth:
            self.violations.append(violation)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Plain Celery under one fault, acknowledging early and late."""

    fault: str
    recipe: str
    early: PlainOutcome
    late: PlainOutcome


HEADER = ("fault", "injected", "rows", "recomputed", "lost", "doubled", "slowest recovery", "held")
PLAIN_HEADER = ("fault on plain Celery", "rows", "early ack: lost / doubled", "late ack: lost / doubled")


def lines(outcomes: Iterable[Outcome]) -> list[Sequence[str]]:
    return [
        (
            o.fault,
            f"{o.injected:,}",
            f"{o.rows:,}",
            "-" if o.recomputed is None else f"{o.recomputed:,}",
            f"{o.lost:,}",
            f"{o.doubled:,}",
            "-" if o.slowest_s is None else f"{o.slowest_s:.1f} s",
            "yes" if o.held else "NO",
        )
        for o in outcomes
    ]


def plain_lines(comparisons: Iterable[Comparison]) -> list[Sequence[str]]:
    return [(c.recipe, f"{c.early.rows:,}", _loss(c.early), _loss(c.late)) for c in comparisons]


def _loss(outcome: PlainOutcome) -> str:
    return f"{outcome.lost:,} / {outcome.doubled:,}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns for a terminal; all but the first are right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    formatted = [_aligned(row, widths) for row in (header, *rows)]
    return "\n".join([formatted[0], "-" * len(formatted[0]), *formatted[1:]])


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (f"{row[0]:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True)))
    return "  ".join([first, *others])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same for docs/reliability.md."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))
