"""Outputs in the forms of model families, and what is split off them."""

from __future__ import annotations

import json
import re

import pytest

from parquetry.workers.replies import harmony
from parquetry.workers.replies.reply import Reply
from parquetry.workers.replies.splitter import Splitter
from parquetry.workers.replies.thinking import Thinking
from parquetry.workers.replies.tool_formats import FORMATS

OF = {form.name: form for form in FORMATS}
BAR, GAP = "\uff5c", "\u2581"
OWN = Thinking("<think>", "</think>", is_own=True)
BEGUN = Thinking("<think>", "</think>", is_own=True, is_begun=True)
FOREIGN = Thinking("<think>", "</think>", is_own=False)


@pytest.mark.parametrize(
    ("thinking", "text", "expected"),
    [
        (OWN, "<think>\na\n</think>\n\nb", ("a", "b")),
        (OWN, "plain </ text", (None, "plain </ text")),
        # cut short: all of it is the thought
        (OWN, "<think>\nI should", ("I should", "")),
        (BEGUN, "I should", ("I should", "")),
        (BEGUN, "a</think>b", ("a", "b")),
        (BEGUN, "<think>a</think>b", ("a", "b")),
        # begun by a prompt that was not seen
        (OWN, "a</think>b", ("a", "b")),
        (FOREIGN, "a</think>b", (None, "a</think>b")),
        (FOREIGN, "<think>a</think>b", ("a", "b")),
        # nothing was thought
        (OWN, "<think>\n\n</think>\n\nb", (None, "b")),
        (OWN, "b <think>no</think>"[:8], (None, "b <think")),
        (OWN, "", (None, "")),
    ],
)
def test_a_thought_in_front(thinking, text, expected):
    assert thinking.split(text) == expected


@pytest.mark.parametrize("known", ["</think>", "[/THINK]", "</seed:think>", "<|END_THINKING|>"])
def test_the_markers_are_those_that_the_model_knows(known):
    found = Thinking.of(lambda marker: marker == known, "<|im_start|>assistant\n")
    assert (found.end, found.is_own, found.is_begun) == (known, True, False)
    assert Thinking.of(lambda marker: marker == known, f"assistant\n{found.begin}\n").is_begun


def deepseek(*calls: tuple[str, str], fenced: bool = False) -> str:
    def mark(name: str) -> str:
        return f"<{BAR}tool{GAP}{name.replace('_', GAP)}{BAR}>"

    def one(name: str, arguments: str) -> str:
        inner = f"function{mark('sep')}{name}\n```json\n{arguments}\n```"
        return mark("call_begin") + (inner if fenced else f"{name}{mark('sep')}{arguments}") + mark("call_end")

    return mark("calls_begin") + "\n".join(one(*call) for call in calls) + mark("calls_end")


@pytest.mark.parametrize(
    ("name", "text", "answer", "calls"),
    [
        ("hermes", 'so:\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', "so:", [("f", {"a": 1})]),
        (
            "hermes",
            '<tool_call>{"name": "f", "arguments": {}}</tool_call>\n'
            '<tool_call>{"name": "g", "arguments": "{\\"b\\": 2}"}</tool_call>',
            "",
            [("f", {}), ("g", {"b": 2})],
        ),
        (
            "hermes",
            "<tool_call>\n<function=f>\n<parameter=city>\nBonn\n</parameter>\n<parameter=n>\n3\n</parameter>\n"
            "</function>\n</tool_call>",
            "",
            [("f", {"city": "Bonn", "n": 3})],
        ),
        # the end of the text ends a call too, if its JSON is whole
        ("hermes", '<tool_call>{"name": "f", "arguments": {}}', "", [("f", {})]),
        ("hermes", '<tool_call>{"name": "f", "argum', '<tool_call>{"name": "f", "argum', []),
        ("hermes", "<tool_call>no</tool_call>", "<tool_call>no</tool_call>", []),
        ("mistral", 'ok[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]', "ok", [("f", {"a": 1})]),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g{"b": 2}', "", [("f", {"a": 1}), ("g", {"b": 2})]),
        ("mistral", "[TOOL_CALLS] [{", "[TOOL_CALLS] [{", []),
        ("llama", '{"name": "f", "parameters": {"a": 1}}', "", [("f", {"a": 1})]),
        (
            "llama",
            '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}',
            "",
            [("f", {}), ("g", {})],
        ),
        ("llama", '{"name": "Ada", "age": 3}', '{"name": "Ada", "age": 3}', []),
        ("llama", "<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
        ("deepseek", "hm " + deepseek(("f", '{"a": 1}'), ("g", "{}")), "hm", [("f", {"a": 1}), ("g", {})]),
        ("deepseek", deepseek(("f", '{"a": 1}'), fenced=True), "", [("f", {"a": 1})]),
    ],
)  # fmt: skip
def test_calls_of_tools(name, text, answer, calls):
    found, made = OF[name].take(text, True)
    assert found == answer
    assert [(call.name, json.loads(call.arguments)) for call in made] == calls


def test_an_answer_of_json_is_a_call_only_where_there_are_tools():
    text = '{"name": "f", "parameters": {}}'
    assert OF["llama"].take(text, False) == (text, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "<|channel|>analysis<|message|>think<|end|><|start|>assistant<|channel|>final<|message|>answer",
            Reply("answer", "think"),
        ),
        ("<|channel|>analysis<|message|>cut in the mid", Reply("", "cut in the mid")),
        (
            "<|channel|>analysis<|message|>t<|end|><|start|>assistant<|channel|>commentary to=functions.f "
            '<|constrain|>json<|message|>{"a": 1}',
            Reply("", "t", (("f", '{"a": 1}'),)),
        ),
        (
            '<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"a": 1}<|call|>',
            Reply("", None, (("f", '{"a": 1}'),)),
        ),
        ("<|channel|>commentary<|message|>I will look<|end|>", Reply("I will look")),
        ('<|channel|>commentary to=functions.f json<|message|>{"a', Reply('{"a')),
        ("no channel", Reply("no channel")),
        ("<|channel|>final", Reply("<|channel|>final")),
    ],
)
def test_channels_of_gpt_oss(text, expected):
    assert harmony.split(text) == expected


def test_a_thought_goes_before_the_calls_and_special_tokens_are_in_no_part():
    splitter = Splitter(OWN, OF["hermes"], False, re.compile(re.escape("<s>")))
    reply = splitter.split('<think><s>t</think>see<s><tool_call>{"name": "f", "arguments": {}}</tool_call>')
    assert reply == Reply("see", "t", (("f", "{}"),))
    assert splitter.split("plain").is_whole
    # a call that is only thought of is none
    assert splitter.split('<think><tool_call>{"name": "f"}</tool_call></think>b').tool_calls == ()
