"""What a prompt template takes from the row: columns by name, columns of `row`, or the whole row."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import meta, nodes

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
    def of(cls, source: str, environment: jinja2.Environment) -> TemplateNames:
        """Raises jinja2.TemplateSyntaxError."""
        tree = environment.parse(source)
        plain = frozenset(meta.find_undeclared_variables(tree)) - frozenset(environment.globals)
        named = frozenset(_columns_of_row(tree)) if ROW in plain else frozenset()
        all_uses = sum(name.name == ROW for name in tree.find_all(nodes.Name))
        takes_row = ROW in plain and all_uses != len(list(_columns_of_row(tree)))
        differences = frozenset(filter(None, map(_spelled, tree.find_all(nodes.Sub))))
        return cls(plain, plain - {ROW} | named, takes_row, ROW in plain, differences)

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


class Row(dict[str, Any]):
    """The row in a template: a null cell is what it is in a template elsewhere, and null in JSON."""

    def __init__(self, values: dict[str, Any], nulls: dict[str, Any]) -> None:
        super().__init__(values)
        self._nulls = nulls

    def __getitem__(self, name: str) -> Any:
        return self._nulls[name] if name in self._nulls else super().__getitem__(name)


def _columns_of_row(tree: nodes.Template) -> Iterator[str]:
    for item in tree.find_all(nodes.Getitem):
        if _is_row(item.node) and isinstance(item.arg, nodes.Const) and isinstance(item.arg.value, str):
            yield item.arg.value
    for attribute in tree.find_all(nodes.Getattr):
        if _is_row(attribute.node) and not hasattr(dict, attribute.attr):
            yield attribute.attr


def _is_row(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == ROW


def _spelled(node: nodes.Node) -> str | None:
    """`a-b-2` for the difference that Jinja makes of it, None for another expression."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.Const):
        return str(node.value)
    if isinstance(node, nodes.Getattr):
        owner = _spelled(node.node)
        return None if owner is None else f"{owner}.{node.attr}"
    if isinstance(node, nodes.Sub):
        left, right = _spelled(node.left), _spelled(node.right)
        return None if left is None or right is None else f"{left}-{right}"
    return None
