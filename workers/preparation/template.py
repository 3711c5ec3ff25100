"""Prompt templates: Jinja text with the row's columns as variables, parsed and rendered in a process with limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from parquetry.schemas.errors import RowError
from parquetry.workers.preparation.cells import cells
from parquetry.workers.preparation.rendering.answers import Failed, Rendered
from parquetry.workers.preparation.rendering.renderer import definition_of, renderer
from parquetry.workers.preparation.template_names import TemplateNames


class TemplateRowError(RowError):
    """{reason}"""


class Template:
    """A prompt template that can be parsed."""

    def __init__(self, source: str) -> None:
        """Raises TemplateError for a syntax error, naming its line, and for one whose parsing takes too much."""
        self.source = source
        self._definition = definition_of("prompt", source=source)
        facts = renderer.facts(self._definition)
        #: what the template takes from the row
        self.names = TemplateNames.of(facts)

    @classmethod
    def parse(cls, source: str) -> Template:
        """Raises TemplateError for a syntax error, naming its line."""
        return cls(source)

    def columns(self, known: Iterable[str]) -> list[str]:
        """The columns the template needs of an input that has the columns `known`; those of no input come along."""
        return sorted(self.names.columns_of(set(known)))

    def rows(self, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        """The cells the template takes, row by row; bad ones are RowErrors."""
        return read_rows(batch, self.columns(batch.schema.names))

    def render(self, row: dict[str, Any]) -> str:
        """The prompt of one row, given as plain values by column name. Raises RowError naming what is wrong."""
        (found,) = renderer.render(self._definition, [row])
        return rendered(found).text


def rendered(answer: Rendered | Failed) -> Rendered:
    """The prompt of a row. Raises RowError, TemplateRowError where the template is at fault."""
    if isinstance(answer, Rendered):
        return answer
    raise row_error(answer)


def row_error(answer: Failed) -> RowError:
    """Why a row has no prompt."""
    return (TemplateRowError if answer.of == "template" else RowError)(reason=answer.reason)


def read_rows(batch: pa.RecordBatch, names: Sequence[str]) -> list[dict[str, Any]]:
    """The cells of some columns, row by row."""
    if not names:
        return [{} for _ in range(batch.num_rows)]
    columns = [cells(name, batch[name]) for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
