"""Columns whose names are no identifiers, by way of `row`."""

from __future__ import annotations

import pyarrow as pa
import pytest

from parquetry.schemas.errors import RowError, TemplateError
from parquetry.workers.preparation.template import Template, TemplateRowError

ROW = {"Review Text": "good", "text-2": "d", "user.name": "u", "none": None}


@pytest.mark.parametrize(("source", "columns", "text"), [
    ('{{ row["Review Text"] }}', ["Review Text"], "good"),
    ('{{ row["text-2"] }}{{ row["user.name"] }}', ["text-2", "user.name"], "du"),
    ("{{ row.none is none }}", ["none"], "True"),
    ('{{ row["none"] | default("-") }}', ["none"], "-"),
    ("{{ row | tojson }}", list(ROW), '{"Review Text": "good", "text-2": "d", "user.name": "u", "none": null}'),
    ("{% for k, v in row.items() %}{{ k }},{% endfor %}", list(ROW), "Review Text,text-2,user.name,none,"),
    ('{% set c = "text-2" %}{{ row[c] }}', list(ROW), "d"),
])  # fmt: skip
def test_the_whole_row_has_a_name(source, columns, text):
    template = Template.parse(source)
    assert template.columns(ROW) == sorted(columns)
    assert template.render({name: ROW[name] for name in ROW if name in columns}) == text


def test_a_null_cell_of_the_row_is_null():
    with pytest.raises(RowError, match="none is null") as error:
        Template.parse('{{ row["none"] }}').render(ROW)
    assert not isinstance(error.value, TemplateRowError)


def test_a_column_called_row_comes_first():
    template = Template.parse("{{ row }} {{ a }}")
    assert template.columns({"row", "a", "b"}) == ["a", "row"]
    assert template.render({"row": "r", "a": "x"}) == "r x"


def test_a_loop_variable_called_row_is_none_of_ours():
    template = Template.parse("{% for row in items %}{{ row.x }}{% endfor %}")
    assert template.columns({"items", "x"}) == ["items"]


def test_the_row_gives_nothing_of_pythons_own():
    for source in ("{{ row.__class__ }}", '{{ row["_nulls"] }}', "{{ row._nulls }}", '{{ row.pop("none") }}'):
        with pytest.raises(TemplateRowError):
            Template.parse(source).render(ROW)


def test_differences_that_may_be_columns():
    assert Template.parse("{{ text-2 }}").names.mistaken(["text", "text-2"]) == "text-2"
    assert Template.parse("{{ a - b - c }}").names.mistaken(["a-b-c"]) == "a-b-c"
    assert Template.parse("{{ a - 1 }}").names.mistaken(["a"]) is None


def test_names_with_spaces_are_explained():
    with pytest.raises(TemplateError, match=r'other signs is written row\["its name"\]'):
        Template.parse("{{ Review Text }}")


def test_rows_of_a_batch():
    template = Template.parse('{{ row["a b"] }}')
    assert template.rows(pa.record_batch({"a b": ["x", None], "c": [1, 2]})) == [{"a b": "x"}, {"a b": None}]
