"""Reads from a parsed prompt template what it takes from the row."""

from __future__ import annotations

from collections.abc import Iterator

import jinja2
from jinja2 import meta, nodes

from parquetry.workers.preparation.template_names import ROW, TemplateNames


def names_of(tree: nodes.Template, environment: jinja2.Environment) -> TemplateNames:
    """The columns of a template."""
    plain = frozenset(meta.find_undeclared_variables(tree)) - frozenset(environment.globals)
    named = frozenset(_columns_of_row(tree)) if ROW in plain else frozenset()
    all_uses = sum(name.name == ROW for name in tree.find_all(nodes.Name))
    takes_row = ROW in plain and all_uses != len(list(_columns_of_row(tree)))
    differences = frozenset(filter(None, map(_spelled, tree.find_all(nodes.Sub))))
    return TemplateNames(plain, plain - {ROW} | named, takes_row, ROW in plain, differences)


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
