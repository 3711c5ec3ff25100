"""A prompt template as the rendering process holds it: Jinja text with the row's columns as variables."""

from __future__ import annotations

from typing import Any

import jinja2
from jinja2 import StrictUndefined

from parquetry.schemas.errors import RowError
from parquetry.workers.preparation.rendering.failures import RefusedTemplate, TemplateFault
from parquetry.workers.preparation.rendering.names import names_of
from parquetry.workers.preparation.rendering.sandbox import BoundedEnvironment
from parquetry.workers.preparation.template_names import ROW


class NullCellError(jinja2.UndefinedError):
    """A null cell is printed: the row's fault, while a name that nothing has is the template's."""


class Null(StrictUndefined):
    """A null cell in a template: `is none`, false and replaceable by `default`, but printing it is an error."""

    # in the base class these are typed as failing, which is what this class is there to change
    def __bool__(self) -> bool:  # type: ignore[override]
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        return other is None or isinstance(other, Null)

    __hash__ = None  # type: ignore[assignment]


class Row(dict[str, Any]):
    """The row in a template: a null cell is what it is in a template elsewhere, and null in JSON."""

    def __init__(self, values: dict[str, Any], nulls: dict[str, Any]) -> None:
        super().__init__(values)
        self._nulls = nulls

    def __getitem__(self, name: str) -> Any:
        return self._nulls[name] if name in self._nulls else super().__getitem__(name)


class _PromptEnvironment(BoundedEnvironment):
    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=True)
        self.tests["none"] = _is_none


class PromptText:
    """A parsed prompt template. Raises RefusedTemplate for one that cannot be parsed, naming the line."""

    def __init__(self, source: str) -> None:
        self._environment = _PromptEnvironment()
        try:
            tree = self._environment.parse_bounded(source)
            self.names = names_of(tree, self._environment)
            self._gives_row = self.names.names_row
            self._template = self._environment.bounded_template(tree)
        except jinja2.TemplateSyntaxError as error:
            raise RefusedTemplate(f"line {error.lineno}: {_explained(str(error.message))}") from None
        except jinja2.TemplateError as error:
            raise RefusedTemplate(str(error)) from None

    def render(self, row: dict[str, Any]) -> str:
        """The prompt of one row, given as plain values by column name. Raises RowError, TemplateFault."""
        try:
            return self._environment.render(self._template, self._variables(row))
        except NullCellError as error:
            raise RowError(reason=str(error)) from None
        except jinja2.UndefinedError as error:
            raise TemplateFault(str(error)) from None
        except jinja2.exceptions.SecurityError as error:
            raise TemplateFault(f"the template does what is not allowed: {error}") from None
        except MemoryError:
            raise
        # a template is a program: it may divide by zero or index a short list, and only its row is at fault
        except Exception as error:  # noqa: BLE001
            raise TemplateFault(f"the template failed: {type(error).__name__}: {str(error)[:200]}") from None

    def _variables(self, row: dict[str, Any]) -> dict[str, Any]:
        nulls = {name: _null(name) for name, value in row.items() if value is None} if None in row.values() else {}
        variables = {**row, **nulls} if nulls else row
        return {**variables, ROW: Row(row, nulls)} if self._gives_row and ROW not in row else variables


def _explained(message: str) -> str:
    message = message.rstrip(".")
    if "expected token" in message:
        message += '; a column whose name has spaces or other signs is written row["its name"]'
    return message


def _is_none(value: object) -> bool:
    return value is None or isinstance(value, Null)


def _null(name: str) -> Null:
    return Null(hint=f"{name} is null", name=name, exc=NullCellError)
