"""Prompt templates: what they may do, and how they fail."""

from __future__ import annotations

import pytest

from parquetry.schemas.errors import RowError, TemplateError
from parquetry.workers.preparation.template import Template


def render(source: str, **row: object) -> str:
    return Template.parse(source).render(row)


def test_columns_are_variables():
    assert render("{{ title }}: {{ text }}\n", title="T", text="x\ny") == "T: x\ny\n"


def test_variables_are_what_the_row_must_have():
    template = Template.parse(
        "{% for word in text.split() %}{{ word }}{{ loop.index }}{{ range(2) }}{% endfor %}{{ b }}"
    )

    assert template.names.columns == {"text", "b"}
    assert not template.names.names_row


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ text", "line 1"),
        ("a\n{% for %}", "line 2"),
        ("{{ a|no_such_filter }}", "No filter named"),
        ("{% x %}", "x"),
    ],
)
def test_a_syntax_error_names_its_line(source, reason):
    with pytest.raises(TemplateError, match=reason):
        Template.parse(source)


def test_a_null_becomes_an_error_only_where_it_would_become_text():
    assert render("{% if text %}a{% elif text is none %}b{% endif %}", text=None) == "b"
    assert render("{{ text|default('-') }}{{ text or '+' }}{{ text == none }}", text=None) == "-+True"
    for source in ("{{ text }}", "{{ text|trim }}", "{{ text.lower() }}", "{{ text ~ 'x' }}", "{{ 'a' + text }}"):
        with pytest.raises(RowError, match="text is null"):
            render(source, text=None)


def test_an_empty_string_is_a_value():
    assert render("<{{ text }}>", text="") == "<>"


def test_filters_that_prompts_use():
    assert render("{{ items|join(', ') }} {{ row|tojson }}", items=["a", "b"], row={"k": "<é>"}) == 'a, b {"k": "<é>"}'
    assert render("{% for n in range(3) %}{{ n }}/{{ loop.length }} {% endfor %}") == "0/3 1/3 2/3 "
    assert render("{{ text|replace('a', 'b')|upper|indent(2) }}", text="aa\na") == "BB\n  B"


HOSTILE = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ text.format.__globals__ }}",
    "{{ '{0.__class__}'.format(text) }}",
    "{{ text|attr('__class__') }}",
    "{{ [].append(1) }}",
    "{{ range(10**9)|list }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 'a' * 10**12 }}",
    "{{ 9**99999999 }}",
    "{{ 9**64**64**64**64**64 }}",
    "{{ 'a'|center(10**10) }}",
    "{{ 'a'.ljust(10**10) }}",
    "{{ '%99999999d' % 1 }}",
    "{{ '{:>99999999}'.format(1) }}",
    "{{ '%*d' % (999999999, 1) }}",
    "{{ [1]|tojson(indent=10**9) }}",
    "{% set ns = namespace(s='aaaaaaaaaa') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{% set ns = namespace(s='aaaaaaaaaa') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(s='aaaaa') %}{% for i in range(20) %}{% set ns.s = ns.s|replace('a', ns.s) %}{% endfor %}",
    "{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x*ns.x %}{% endfor %}",
    "{{ (2**16000) * (2**16000) }}",
    "{{ 1.5|round(10**9, 'ceil') }}",
    "{{ ('http://a.b '*1000000)|urlize }}",
    "{{ ('a b'*1500000)|wordwrap(3) }}",
    "{{ text.translate({120: 'y'*15000000}) * 2 }}",
    "{{ ('a'*15000000)|pprint }}",
    "{{ ('{:9999}' * 20000).format(*([1]*20000)) }}",
    "{{ ('a\\n'*4000000)|indent(9) }}",
    "{{ ('ab'*7000000)|unique|list }}",
    "{{ ('ab'*7000000)|list|groupby('x')|list }}",
    "{{ ([[1]]*9000000)|sum(start=[]) }}",
    "{{ (range(90000)|list * 100)|sort|length }}",
    "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = ns.l + ['a'*15000000 ~ i] %}{% endfor %}",
    "{% set ns = namespace(s='aaaa') %}{% for i in range(40) %}{% set b %}{{ ns.s }}{{ ns.s }}{% endset %}"
    "{% set ns.s = b %}{% endfor %}",
]


@pytest.mark.parametrize("source", HOSTILE)
def test_a_hostile_template_is_a_row_error(source):
    with pytest.raises(RowError):
        render(source, text="x")


def test_a_program_error_is_the_rows_error():
    with pytest.raises(RowError, match="ZeroDivisionError"):
        render("{{ 1 / n }}", n=0)


def test_one_bad_row_does_not_spoil_the_next():
    template = Template.parse("{% for i in range(n) %}{% for j in range(90000) %}{% endfor %}{% endfor %}ok")
    with pytest.raises(RowError, match="steps"):
        template.render({"n": 1000})

    assert template.render({"n": 1}) == "ok"
