"""Calls of tools as model families write them, taken out of a text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from parquetry.workers.replies.reply import ToolCall, json_text, read_json, tool_call

#: what is left of the text, and its calls; what is no whole call stays in the text
Found = tuple[str, list[ToolCall]]
_HERMES = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_FUNCTION = re.compile(r"<function=([^>]+)>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
#: DeepSeek's bar and its space, which are not those of a keyboard
_BAR, _GAP = "\uff5c", "\u2581"
_DEEPSEEK_BEGIN, _DEEPSEEK_END, _DEEPSEEK_NAMED = (
    f"<{_BAR}tool{_GAP}{name}{_BAR}>" for name in (f"call{_GAP}begin", f"call{_GAP}end", "sep")
)
_DEEPSEEK = re.compile(f"{_DEEPSEEK_BEGIN}(.*?){_DEEPSEEK_END}", re.DOTALL)
_DEEPSEEK_AROUND = re.compile(f"<{_BAR}tool{_GAP}calls{_GAP}(?:begin|end){_BAR}>")
_FENCED = re.compile(r"(\S+)\s*```json\s*(.*?)\s*```", re.DOTALL)
_MISTRAL_NAME = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(?=\{)")


def hermes(text: str, has_tools: bool) -> Found:
    """`<tool_call>{"name": ..., "arguments": ...}</tool_call>`, and Qwen's form with `<function=name>` in it."""
    return _taken(_HERMES, text, lambda inner: tool_call(read_json(inner)) or _function(inner))


def _function(text: str) -> ToolCall | None:
    match = _FUNCTION.fullmatch(text.strip())
    if match is None:
        return None
    arguments = {name: _value(value) for name, value in _PARAMETER.findall(match[2])}
    return ToolCall(match[1].strip(), json_text(arguments))


def _value(text: str) -> object:
    """A parameter as JSON where it is some, else the text itself."""
    found = read_json(text)
    return text if found is None and text != "null" else found


def deepseek(text: str, has_tools: bool) -> Found:
    """DeepSeek's markers around a name and its arguments, with or without a fence of JSON."""
    rest, calls = _taken(_DEEPSEEK, text, _deepseek_call)
    return (_DEEPSEEK_AROUND.sub("", rest).strip(), calls) if calls else (text, [])


def _deepseek_call(inner: str) -> ToolCall | None:
    name, _, arguments = inner.partition(_DEEPSEEK_NAMED)
    if (fenced := _FENCED.fullmatch(arguments.strip())) is not None:
        name, arguments = fenced[1], fenced[2]
    return tool_call({"name": name.strip(), "arguments": arguments})


def _taken(pattern: re.Pattern[str], text: str, read: Callable[[str], ToolCall | None]) -> Found:
    """The calls that `read` makes of the matches, and the text without these."""
    calls: list[ToolCall] = []

    def replaced(match: re.Match[str]) -> str:
        if (call := read(match[1])) is None:
            return match[0]
        calls.append(call)
        return ""

    rest = pattern.sub(replaced, text)
    return (rest.strip(), calls) if calls else (text, [])


def mistral(text: str, has_tools: bool) -> Found:
    """`[TOOL_CALLS]` before a JSON list of calls, or before each `name[ARGS]{...}`."""
    answer, *parts = text.split("[TOOL_CALLS]")
    calls = [call for part in parts for call in _mistral_calls(part)]
    return (answer.strip(), calls) if calls else (text, [])


def _mistral_calls(part: str) -> Iterator[ToolCall]:
    listed = read_json(part)
    if isinstance(listed, list | dict):
        yield from filter(None, map(tool_call, listed if isinstance(listed, list) else [listed]))
    elif (match := _MISTRAL_NAME.match(part)) is not None:
        call = tool_call({"name": match[1], "arguments": part[match.end() :]})
        yield from (call,) if call else ()


def llama(text: str, has_tools: bool) -> Found:
    """JSON objects behind `<|python_tag|>`, or as the whole answer where the row has tools."""
    answer, tag, behind = text.partition("<|python_tag|>")
    source = behind if tag else text if has_tools else ""
    calls = list(_objects(source))
    return (answer.strip() if tag else "", calls) if calls else (text, [])


def _objects(text: str) -> Iterator[ToolCall]:
    """Calls that follow each other, a semicolon between two; none where the text is anything else."""
    calls, rest, decoder = [], text.strip(), json.JSONDecoder()
    while rest:
        try:
            found, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            return
        call = tool_call(found) if isinstance(found, dict) and {"name", "parameters"} <= set(found) else None
        if call is None:
            return
        calls.append(call)
        rest = rest[end:].lstrip("; \n")
    yield from calls


class ToolFormat(NamedTuple):
    """One way of writing calls, and what tells that a model writes so."""

    name: str
    marker: str
    take: Callable[[str, bool], Found]


FORMATS = (
    ToolFormat("deepseek", _DEEPSEEK_BEGIN, deepseek),
    ToolFormat("mistral", "[TOOL_CALLS]", mistral),
    ToolFormat("hermes", "<tool_call>", hermes),
    ToolFormat("llama", "<|python_tag|>", llama),
)
