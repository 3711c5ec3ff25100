"""The channels of gpt-oss: analysis is reasoning, commentary to a function a call, and final the answer."""

from __future__ import annotations

import re

from parquetry.workers.replies.reply import Reply, ToolCall, tool_call

#: special tokens that tell the format
TOKENS = ("<|channel|>", "<|message|>")
_MESSAGE = re.compile(
    r"(?:<\|start\|>(?P<author>[^<]*))?<\|channel\|>(?P<channel>\w*)(?P<header>.*?)<\|message\|>(?P<text>.*?)"
    r"(?=<\|end\|>|<\|return\|>|<\|call\|>|<\|start\|>|<\|channel\|>|\Z)",
    re.DOTALL,
)
_RECIPIENT = re.compile(r"to=([^\s<]+)")


def split(text: str) -> Reply:
    """The reply in a run of messages; what is outside of them, as a header cut short, is left out of all parts."""
    thoughts: list[str] = []
    answers: list[str] = []
    calls: list[ToolCall] = []
    messages = list(_MESSAGE.finditer(text))
    for message in messages:
        call = _call(message)
        if call is not None:
            calls.append(call)
        else:
            (thoughts if message["channel"] == "analysis" else answers).append(message["text"].strip())
    if not messages:
        return Reply(text)
    return Reply("\n\n".join(filter(None, answers)), "\n\n".join(filter(None, thoughts)) or None, tuple(calls))


def _call(message: re.Match[str]) -> ToolCall | None:
    recipient = _RECIPIENT.search(f"{message['author'] or ''} {message['header']}")
    if recipient is None or message["channel"] == "analysis":
        return None
    return tool_call({"name": recipient[1].removeprefix("functions."), "arguments": message["text"]})
