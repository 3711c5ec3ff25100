"""Prompt templates: Jinja text with the row's columns as variables."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import jinja2
from jinja2 import StrictUndefined, meta

from parquetry.schemas.errors import RowError, TemplateError
from parquetry.workers.preparation.sandbox import MAX_TEMPLATE_CHARS, BoundedEnvironment


class Null(StrictUndefined):
    """A null cell in a template: `is none`, false and replaceable by `default`, but printing it is an error."""

    # in the base class these are typed as failing, which is what this class is there to change
    def __bool__(self) -> bool:  # type: ignore[override]
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        return other is None or isinstance(other, Null)

    __hash__ = None  # type: ignore[assignment]


def _is_none(value: object) -> bool:
    return value is None or isinstance(value, Null)


class _PromptEnvironment(BoundedEnvironment):
    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=True)
        self.tests["none"] = _is_none


class Template:
    """A parsed prompt template. Not shared between threads: a render's bounds are counted in its environment."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._environment = _PromptEnvironment()
        self._template = self._environment.bounded_template(source)

    @classmethod
    def parse(cls, source: str) -> Template:
        """Raises TemplateError for a syntax error, naming its line."""
        if len(source) > MAX_TEMPLATE_CHARS:
            raise TemplateError(reason=f"it is longer than {MAX_TEMPLATE_CHARS} characters")
        try:
            return cls(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(reason=f"line {error.lineno}: {str(error.message).rstrip('.')}") from None
        except (jinja2.TemplateError, RecursionError) as error:
            raise TemplateError(reason=str(error) or type(error).__name__) from None

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names the template takes from the row."""
        names = meta.find_undeclared_variables(self._environment.parse(self.source))
        return frozenset(names) - frozenset(self._environment.globals)

    def render(self, row: dict[str, Any]) -> str:
        """The prompt of one row, given as plain values by column name. Raises RowError naming what is wrong."""
        variables = {name: _cell(name, row[name]) for name in self.variables if name in row}
        try:
            return self._environment.render(self._template, variables)
        except jinja2.UndefinedError as error:
            raise RowError(reason=str(error)) from None
        except jinja2.exceptions.SecurityError as error:
            raise RowError(reason=f"the template does what is not allowed: {error}") from None
        # a template is a program: it may divide by zero or index a short list, and only its row is at fault
        except Exception as error:  # noqa: BLE001
            raise RowError(reason=f"the template failed: {type(error).__name__}: {str(error)[:200]}") from None


def _cell(name: str, value: Any) -> Any:
    return Null(hint=f"{name} is null", name=name) if value is None else value
