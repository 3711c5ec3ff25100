"""Tools, tool calls and variables of chat templates, rendered as transformers renders them."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest

from parquetry.schemas.errors import InvalidValueError, RowError, UnsupportedOptionError
from parquetry.schemas.spec.generation import PromptSpec
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.chat import ChatTemplate
from parquetry.workers.preparation.conversation import read_messages, read_tools

NOW = datetime(2026, 3, 4)
#: what published templates do with tools and calls: those of Qwen, Llama 3.1, DeepSeek-V3 and Mistral
QWEN = """
{%- if tools %}
    {{- '<|im_start|>system\n# Tools\n' }}{%- for tool in tools %}{{- tool | tojson }}\n{%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "assistant" and message.tool_calls %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{- '\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '\n<tool_call>\n{"name": "' + tool_call.name + '", "arguments": ' }}
            {{- tool_call.arguments | tojson + '}' }}
        {%- endfor %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}"""
LLAMA = """
{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if tools is not none %}{%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\n\n" }}{%- endfor %}{%- endif %}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}{{- raise_exception("one at a time") }}{%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}{{- tool_call.arguments | tojson }}{{- "}" }}
    {%- else %}{{- message['role'] + ': ' + message['content'] | trim }}{%- endif %}
{%- endfor %}"""
DEEPSEEK = """
{%- for message in messages %}
    {%- if message['role'] == 'assistant' and message['content'] is none %}
        {%- for tool in message['tool_calls'] %}
            {{- tool['type'] + tool['function']['name'] + '\n```json\n' + tool['function']['arguments'] + '\n```' }}
        {%- endfor %}
    {%- else %}{{- '[' + message['role'] + ']' + message['content'] }}{%- endif %}
{%- endfor %}"""
MISTRAL = """
{%- for message in messages %}
    {%- if message.tool_calls is defined and message.tool_calls is not none %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.id is not defined or tool_call.id | length != 9 %}{{- raise_exception("9!") }}{%- endif %}
            {{- tool_call.function | tojson }}, "id": "{{ tool_call.id }}"
        {%- endfor %}
    {%- else %}{{- message.content }}{%- endif %}
{%- endfor %}"""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather <now> in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
ARGUMENTS = {"city": "Zürich", "unit": None}


def conversation(arguments: object, **content: object) -> list[dict]:
    call = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", **content, "tool_calls": [call]},
        {"role": "tool", "content": "12 degrees", "tool_call_id": "call00001"},
    ]


def template_of(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<s>"}, NOW)


@pytest.fixture
def checkpoint(causal_lm: Path, tmp_path: Path):
    def make(source: str) -> Checkpoint:
        folder = tmp_path / "model"
        shutil.copytree(causal_lm, folder)
        (folder / "chat_template.jinja").write_text(source)
        return Checkpoint.resolve(ModelSpec(id=str(folder)))

    return make


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}, {"content": "I look."}])
@pytest.mark.parametrize("source", [QWEN, LLAMA, MISTRAL], ids=["qwen", "llama", "mistral"])
def test_calls_render_as_in_transformers(causal_lm, source, content):
    from tests.models import load_tokenizer

    expected = load_tokenizer(causal_lm).apply_chat_template(
        conversation(ARGUMENTS, **content),
        tools=TOOLS,
        chat_template=source,
        tokenize=False,
        add_generation_prompt=True,
    )
    # as OpenAI's format has it, the arguments are JSON text
    for arguments in (ARGUMENTS, json.dumps(ARGUMENTS)):
        cell = json.dumps(conversation(arguments, **content))
        assert template_of(source).render(read_messages("m", cell), TOOLS) == expected


@pytest.mark.parametrize("content", [{"content": None}, {}])
def test_a_template_that_joins_arguments_to_a_string_gets_text(content):
    for arguments in (ARGUMENTS, json.dumps(ARGUMENTS, ensure_ascii=False)):
        text = template_of(DEEPSEEK).render(read_messages("m", conversation(arguments, **content)))
        assert '```json\n{"city": "Zürich"' in text
        assert text.endswith("[tool]12 degrees")


def test_structs_of_arrow_come_without_the_fields_that_others_have():
    rows = [conversation({"city": "Bern"}, content=None), [{"role": "user", "content": "Hi"}]]
    column = pa.array(rows)
    assert "tool_calls" in column[1].as_py()[0], "Arrow gives every message every field"

    first, second = (template_of(QWEN).render(read_messages("m", cell)) for cell in column.to_pylist())

    assert '{"name": "weather", "arguments": {"city": "Bern"}}' in first
    assert second == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "assistant", "content": None}, "no text as its content"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "no text as its content"),
        ({"role": "assistant", "tool_calls": "x"}, "tool_calls that are no list"),
        ({"role": "assistant", "tool_calls": ["x"]}, "tool_calls that are no list"),
    ],
)
def test_what_is_no_call_is_a_row_error(message, reason):
    with pytest.raises(RowError, match=reason):
        read_messages("m", [message])


def test_calls_are_not_dropped_without_a_word():
    messages = read_messages("m", conversation(ARGUMENTS, content=None))
    with pytest.raises(RowError, match="chat template has no place for them"):
        template_of("{% for m in messages %}{{ m['content'] }}{% endfor %}").render(messages)


@pytest.mark.parametrize("cell", [TOOLS, json.dumps(TOOLS), pa.array([TOOLS, None])[0].as_py()])
def test_tools_of_a_cell(cell):
    assert read_tools("t", cell) == TOOLS


@pytest.mark.parametrize("cell", [None, [], "[]"])
def test_a_row_without_tools(cell):
    assert read_tools("t", cell) is None


@pytest.mark.parametrize(
    ("cell", "reason"), [("{", "not valid JSON"), ("{}", "not a list"), (["x"], "tool 0 is no"), ([{}], "tool 0 is no")]
)
def test_bad_tools_are_row_errors(cell, reason):
    with pytest.raises(RowError, match=reason):
        read_tools("t", cell)


def test_variables_reach_the_template(checkpoint):
    prompt = PromptSpec(template="x", chat_template_kwargs={"enable_thinking": False})
    template = ChatTemplate.of(checkpoint(QWEN), prompt, now=NOW)
    assert template is not None
    assert template.render([{"role": "user", "content": "Hi"}]).endswith("assistant\n<think>\n\n</think>\n\n")


def test_a_variable_that_the_template_does_not_read_is_refused_with_the_nearest(checkpoint):
    prompt = PromptSpec(template="x", chat_template_kwargs={"enable_thinkin": False})
    with pytest.raises(InvalidValueError) as refusal:
        ChatTemplate.of(checkpoint(QWEN), prompt, now=NOW)
    assert str(refusal.value) == (
        "The job spec's prompt.chat_template_kwargs is 'enable_thinkin': the model's chat template reads no such "
        "variable (did you mean 'enable_thinking'?); beside the messages it reads enable_thinking."
    )


@pytest.mark.parametrize(("source", "known"), [(QWEN, "enable_thinking"), (LLAMA, "custom_tools"), (MISTRAL, "none")])
def test_the_variables_of_a_template(checkpoint, source, known):
    with pytest.raises(InvalidValueError, match=f"it reads {known}"):
        ChatTemplate.of(checkpoint(source), PromptSpec(template="x", chat_template_kwargs={"zzz": 1}), now=NOW)


def test_tools_need_a_template_with_a_place_for_them(checkpoint, tmp_path):
    from tests.models import write_causal_lm

    with pytest.raises(UnsupportedOptionError, match=r"prompt.tools with model .*has no place for tools"):
        ChatTemplate.of(checkpoint(MISTRAL), PromptSpec(template="x", tools=TOOLS), now=NOW)
    plain = Checkpoint.resolve(ModelSpec(id=str(write_causal_lm(tmp_path / "plain", chat=False))))
    for prompt in (PromptSpec(template="x", tools="t"), PromptSpec(template="x", chat_template_kwargs={"a": 1})):
        with pytest.raises(UnsupportedOptionError, match="no chat template"):
            ChatTemplate.of(plain, prompt, now=NOW)


def test_the_template_named_tool_use_serves_jobs_with_tools(checkpoint):
    found = checkpoint("default of {{ messages[0].content }}")
    (found.folder / "additional_chat_templates").mkdir()
    (found.folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools | length }} tools")
    messages = [{"role": "user", "content": "Hi"}]

    with_tools = ChatTemplate.of(found, PromptSpec(template="x", tools=TOOLS), now=NOW)
    without = ChatTemplate.of(Checkpoint(found.folder, "m"), PromptSpec(template="x"), now=NOW)

    assert with_tools is not None and without is not None
    assert with_tools.render(messages, TOOLS) == "1 tools"
    assert without.render(messages) == "default of Hi"
