"""The Jinja environment for text we did not write: prompt templates and models' chat templates.

Immutable and sandboxed by Jinja; bounded by us in steps, time and size. This is the first wall, which tells what was
crossed; the second is the limits of the process that it runs in.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

#: characters a template, and what it renders to, may have
MAX_TEMPLATE_CHARS = 1_000_000
MAX_RENDERED_CHARS = 16_000_000
#: expressions and statements, each of which takes far longer to parse than the same length of text
MAX_TAGS = 10_000
#: loop turns and calls of one render, and its processor seconds, somewhat below those at which the kernel ends it
MAX_STEPS = 1_000_000
MAX_RENDER_S = 0.5
_CLOCK_EVERY = 64
#: bits of a whole number that is computed; Python itself reads and prints none above 4300 digits, which are 14,285
MAX_INT_BITS = 16_384
#: digits that numbers may be rounded to
_MAX_PRECISION = 300
#: filters and str methods whose result may be far larger than their arguments
_GROWING = frozenset({"batch", "center", "expandtabs", "indent", "join", "ljust", "replace", "rjust", "slice", "zfill"})
_FORMATTING = frozenset({"format", "format_map"})
#: filters that take a second for what others do at once, and the characters they are given at most
_SLOW = frozenset({"pprint", "urlize", "wordwrap"})
_MAX_SLOW_CHARS = 500_000
_WIDE_FORMAT = re.compile(r"\d{5,}|\*|\{[^{}]*\{")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Bounds every render by MAX_STEPS, MAX_RENDER_S and MAX_RENDERED_CHARS. Of one thread, whose time is counted."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(autoescape=False, cache_size=0, **options)
        self._steps = 0
        self._deadline: float | None = None
        self.globals = {"range": self.globals["range"], "namespace": self.globals["namespace"], "dict": _make_dict}
        self.filters = {name: _guard(name, function) for name, function in self.filters.items()}
        self.filters.update(tojson=_to_json, bounded=self._bounded, concatenated=_concatenate)

    def parse_bounded(self, source: str) -> nodes.Template:
        """The tree of a template. Raises jinja2.TemplateSyntaxError, and TemplateError for one that is too large."""
        if len(source) > MAX_TEMPLATE_CHARS:
            raise TemplateError(f"it is longer than {MAX_TEMPLATE_CHARS} characters")
        if source.count("{{") + source.count("{%") > MAX_TAGS:
            raise TemplateError(f"it has more than {MAX_TAGS} expressions and statements")
        return self.parse(source)

    def bounded_template(self, tree: nodes.Template) -> Template:
        """Compile a tree, which is changed, with every loop and concatenation counted."""
        return self.from_string(_Bounding().visit(tree))

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """Join the output of a block; Jinja calls this for macros and block assignments."""
        pieces = list(pieces)
        _require(sum(map(len, pieces)))
        return "".join(pieces)

    def render(self, template: Template, variables: dict[str, Any]) -> str:
        """Raises SecurityError when a bound is crossed, and whatever the template raises."""
        self._steps, self._deadline = 0, None
        pieces, size = [], 0
        # what `Template.generate` does, without its chain of dictionaries and without rewriting tracebacks
        context = self.context_class(self, {**self.globals, **variables}, template.name, template.blocks)
        for piece in template.root_render_func(context):
            size += len(piece)
            if size > MAX_RENDERED_CHARS:
                _require(size)
            pieces.append(piece)
        return "".join(pieces)

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Count calls, and refuse str methods whose result would be huge."""
        self.step()
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            _check_growth(function.__name__, (owner, *args))
        return super().call(context, function, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Any:
        """Refuse format strings that ask for huge fields, before Jinja makes them safe."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_growth("format", (value.__self__,))
        return wrapped

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse sums, repetition, powers and formatting whose result would be huge."""
        if operator == "+":
            if isinstance(left, str | list):
                right_size = len(right) if type(right) is str else _magnitude(right)
                if len(left) + right_size > MAX_RENDERED_CHARS:
                    _require(len(left) + right_size)
            return left + right
        if operator == "%":
            if isinstance(left, str):
                _check_growth("format", (left,))
        elif isinstance(left, int) and isinstance(right, int):
            _check_bits(operator, left, right)
        elif operator == "*" and not (isinstance(left, int | float) and isinstance(right, int | float)):
            _require(_magnitude(left) * _magnitude(right))
        return self.binop_table[operator](left, right)

    def _bounded(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.step()
            yield item

    def step(self) -> None:
        """Count a loop turn or a call. Raises SecurityError when there were too many, or they took too long."""
        self._steps += 1
        if self._steps % _CLOCK_EVERY == 0:
            self._check_clock()

    def _check_clock(self) -> None:
        if self._steps > MAX_STEPS:
            raise SecurityError(f"more than {MAX_STEPS} steps")
        # processor time, so that a machine with too much to do fails no row; from the first look on, since most
        # templates never come to one
        now = time.process_time()
        self._deadline = self._deadline or now + MAX_RENDER_S
        if now > self._deadline:
            raise SecurityError(f"more than {MAX_RENDER_S:g} s of processor time")


class _Bounding(NodeTransformer):
    """Wraps the iterables of loops and the operands of `~` in filters that count steps and characters."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "bounded", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        pieces = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(pieces, "concatenated", [], [], None, None, lineno=node.lineno)


def _concatenate(pieces: list[Any]) -> str:
    return BoundedEnvironment.concat(map(str, pieces))


def _guard(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if name not in _GROWING | _FORMATTING | _SLOW | {"round"}:
        return function

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        _check_growth(name, (*args, *kwargs.values()))
        return function(*args, **kwargs)

    return guarded


def _check_growth(name: str, args: tuple[Any, ...]) -> None:
    if name in _FORMATTING and any(isinstance(arg, str) and _WIDE_FORMAT.search(arg) for arg in args[:1]):
        raise SecurityError("a format wider than four digits")
    if name in _GROWING:
        _require(functools.reduce(lambda size, arg: size * max(_magnitude(arg), 1), args, 1))
    if name in _SLOW and any(_magnitude(arg) > _MAX_SLOW_CHARS for arg in args):
        raise SecurityError(f"{name} of more than {_MAX_SLOW_CHARS} characters")
    if name == "round" and any(isinstance(arg, int) and abs(arg) > _MAX_PRECISION for arg in args[1:]):
        raise SecurityError(f"rounding to more than {_MAX_PRECISION} digits")
    if name == "translate":
        _require(
            len(args[0]) * max(map(_magnitude, args[1].values() if isinstance(args[1], dict) else args[1:]), default=1)
        )
    if name == "join":
        _require(sum(sum(map(_magnitude, arg)) for arg in args if isinstance(arg, list | tuple)))


def _check_bits(operator: str, left: int, right: int) -> None:
    bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
    if bits > MAX_INT_BITS:
        raise SecurityError(f"a whole number of more than {MAX_INT_BITS} bits")


def _magnitude(value: Any) -> int:
    if isinstance(value, str | bytes | list | tuple | dict):
        return len(value)
    return int(value) if isinstance(value, int | float) else 1


def _require(size: int) -> None:
    if size > MAX_RENDERED_CHARS:
        raise SecurityError(f"more than {MAX_RENDERED_CHARS} characters")


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    # the type itself would hand out its constructors
    return dict(*args, **kwargs)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    # Jinja's own filter escapes HTML, which no prompt wants; transformers replaces it the same way
    if _magnitude(options.get("indent") or 0) > 64:
        raise SecurityError("an indent above 64")
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)
