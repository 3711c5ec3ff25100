"""Chat templates render as transformers renders them, in our sandbox."""

from __future__ import annotations

from datetime import datetime

import pytest

from parquetry.schemas.errors import RowError, TemplateError, UnsupportedOptionError
from parquetry.schemas.spec.generation import PromptSpec
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.chat import ChatTemplate
from parquetry.workers.preparation.conversation import read_messages, user_message, with_system

NOW = datetime(2026, 3, 4)
MESSAGES = [
    {"role": "system", "content": "Be <brief>."},
    {"role": "user", "content": "Hé 😀"},
    {"role": "assistant", "content": "  yes\n"},
    {"role": "user", "content": ""},
]
TEMPLATES = [
    "{% for m in messages %}\n    {{ m.role }}: {{ m.content | trim }}\n{% endfor %}",
    "{%- for m in messages -%}[{{ loop.index0 }}{{ m['role'] }}]{{ m['content'] }}{{ eos_token }}{%- endfor %}",
    "{{ bos_token }}{% for m in messages if m.role != 'system' %}{{ m | tojson }}\n{% endfor %}",
    "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "{{ messages[0]['content'].split('<')[1] }}{{ tools is none }}{{ unset }}{{ messages | length }}",
    "{% if add_generation_prompt %}<a>{% endif %}{{ messages[1:][0].content ~ '!' }}",
]


@pytest.mark.parametrize("source", TEMPLATES)
def test_templates_render_as_in_transformers(causal_lm, source):
    from tests.models import load_tokenizer

    tokenizer = load_tokenizer(causal_lm)
    expected = tokenizer.apply_chat_template(MESSAGES, chat_template=source, tokenize=False, add_generation_prompt=True)
    checkpoint = Checkpoint.resolve(ModelSpec(id=str(causal_lm)))

    assert ChatTemplate(source, checkpoint.special_tokens, NOW).render(MESSAGES) == expected


def test_a_date_is_that_of_the_job():
    assert ChatTemplate("{{ strftime_now('%Y-%m-%d') }}", {}, NOW).render(MESSAGES) == "2026-03-04"


def test_a_template_may_refuse_a_row():
    with pytest.raises(RowError, match="roles must alternate"):
        ChatTemplate("{{ raise_exception('roles must alternate') }}", {}, NOW).render(MESSAGES)


def test_a_hostile_template_is_a_row_error():
    with pytest.raises(RowError, match="unsafe"):
        ChatTemplate("{{ messages.__class__.__base__ }}", {}, NOW).render(MESSAGES)


def test_a_model_without_template_refuses_what_needs_one(tmp_path, causal_lm):
    from tests.models import write_causal_lm

    plain = Checkpoint.resolve(ModelSpec(id=str(write_causal_lm(tmp_path / "plain", chat=False))))

    assert ChatTemplate.of(plain, PromptSpec(template="x"), now=NOW) is None
    for prompt in (PromptSpec(chat=True), PromptSpec(messages="m"), PromptSpec(template="x", system="s")):
        with pytest.raises(UnsupportedOptionError, match="no chat template"):
            ChatTemplate.of(plain, prompt, now=NOW)


def test_chat_false_gives_plain_prompts(causal_lm):
    chat = Checkpoint.resolve(ModelSpec(id=str(causal_lm)))

    assert ChatTemplate.of(chat, PromptSpec(template="x", chat=False), now=NOW) is None
    assert ChatTemplate.of(chat, PromptSpec(template="x"), now=NOW) is not None


def test_a_broken_template_of_the_model_is_named_as_such(tmp_path, causal_lm):
    (tmp_path / "chat_template.jinja").write_text("{% for %}")
    broken = Checkpoint(tmp_path, "broken")

    with pytest.raises(TemplateError, match="model's chat template"):
        ChatTemplate.of(broken, PromptSpec(template="x"), now=NOW)


def test_the_system_prompt_comes_first_unless_the_row_has_its_own():
    assert user_message("hi", "be kind")[0] == {"role": "system", "content": "be kind"}
    assert with_system(MESSAGES, "be kind") == MESSAGES
    assert user_message("hi", None) == [{"role": "user", "content": "hi"}]


def test_messages_are_structs_or_json_text():
    expected = [{"role": "user", "content": "hi"}]

    assert read_messages("m", [{"role": "user", "content": "hi", "name": None}]) == expected
    assert read_messages("m", '[{"role": "user", "content": "hi"}]') == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "m is null"),
        ("[", "not valid JSON"),
        ("{}", "not a list"),
        ([], "not a list"),
        (["hi"], "message 0 is not an object"),
        ([{"role": "user", "content": None}], "no text as its content"),
        ([{"content": "x"}], "no text as its role"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_bad_messages_are_row_errors(value, reason):
    with pytest.raises(RowError, match=reason):
        read_messages("m", value)
