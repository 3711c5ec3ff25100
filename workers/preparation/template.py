"""Prompt templates: Jinja text with the row's columns as variables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import jinja2
import pyarrow as pa
from jinja2 import StrictUndefined

from parquetry.schemas.errors import RowError, TemplateError
from parquetry.workers.preparation.cells import cells
from parquetry.workers.preparation.sandbox import MAX_TEMPLATE_CHARS, BoundedEnvironment
from parquetry.workers.preparation.template_names import ROW, Row, TemplateNames


class NullCellError(jinja2.UndefinedError):
    """A null cell is printed: the row's fault, while a name that nothing has is the template's."""


class TemplateRowError(RowError):
    """{reason}"""


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
            message = str(error.message).rstrip(".")
            if "expected token" in message:
                message += '; a column whose name has spaces or other signs is written row["its name"]'
            raise TemplateError(reason=f"line {error.lineno}: {message}") from None
        except (jinja2.TemplateError, RecursionError) as error:
            raise TemplateError(reason=str(error) or type(error).__name__) from None

    @cached_property
    def names(self) -> TemplateNames:
        """What the template takes from the row."""
        return TemplateNames.of(self.source, self._environment)

    def columns(self, known: Iterable[str]) -> list[str]:
        """The columns the template needs of an input that has the columns `known`; those of no input come along."""
        return sorted(self.names.columns_of(set(known)))

    def rows(self, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        """The cells the template takes, row by row; bad ones are RowErrors."""
        return read_rows(batch, self.columns(batch.schema.names))

    def render(self, row: dict[str, Any]) -> str:
        """The prompt of one row, given as plain values by column name. Raises RowError naming what is wrong."""
        try:
            return self._environment.render(self._template, self._variables(row))
        except NullCellError as error:
            raise RowError(reason=str(error)) from None
        except jinja2.UndefinedError as error:
            raise TemplateRowError(reason=str(error)) from None
        except jinja2.exceptions.SecurityError as error:
            raise TemplateRowError(reason=f"the template does what is not allowed: {error}") from None
        # a template is a program: it may divide by zero or index a short list, and only its row is at fault
        except Exception as error:  # noqa: BLE001
            raise TemplateRowError(reason=f"the template failed: {type(error).__name__}: {str(error)[:200]}") from None

    def _variables(self, row: dict[str, Any]) -> dict[str, Any]:
        variables = {name: _cell(name, value) for name, value in row.items()}
        if self.names.names_row and ROW not in row:
            nulls = {name: variables[name] for name, value in row.items() if value is None}
            variables[ROW] = Row(row, nulls)
        return variables


def read_rows(batch: pa.RecordBatch, names: Sequence[str]) -> list[dict[str, Any]]:
    """The cells of some columns, row by row."""
    if not names:
        return [{} for _ in range(batch.num_rows)]
    columns = [cells(name, batch[name]) for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _cell(name: str, value: Any) -> Any:
    return Null(hint=f"{name} is null", name=name, exc=NullCellError) if value is None else value
