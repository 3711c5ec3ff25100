"""What a prompt template takes from the row: columns by name, columns of `row`, or the whole row."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

#: the name of the whole row, for columns whose names are no identifiers; a column of this name comes first
ROW = "row"


@dataclass(frozen=True)
class TemplateNames:
    """The columns of a template."""

    #: named outright
    plain: frozenset[str]
    #: named outright, or as row["..."]
    columns: frozenset[str]
    #: whether it takes the row in a way that does not tell which columns
    takes_row: bool
    #: whether `row` stands in it at all
    names_row: bool
    #: differences such as `text - 2`, spelled like the column they may be meant for
    differences: frozenset[str]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> TemplateNames:
        """The names as the rendering process tells them, with a list for each set."""
        sets: dict[str, Any] = {name: frozenset(value) for name, value in facts.items() if isinstance(value, list)}
        return cls(**{**facts, **sets})

    def columns_of(self, known: Collection[str]) -> frozenset[str]:
        """The columns needed of an input with these columns; one that is called `row` is itself."""
        if not self.names_row:
            return self.columns
        if ROW in known:
            return self.plain
        return self.columns | (frozenset(known) if self.takes_row else frozenset())

    def mistaken(self, known: Collection[str]) -> str | None:
        """A column that is written as a difference, which Jinja computes; None where there is none."""
        return next((name for name in sorted(self.differences) if name in set(known)), None)
