"""The choices of an answer: one a sample, with its text, its calls of tools and its log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Choice = dict[str, Any]
#: cells of one sample, by column
Sample = Mapping[str, Any]


def chat_choice(index: int, sample: Sample, call_ids: Sequence[str]) -> Choice:
    """One choice of a chat completion; `call_ids` are those of its calls, in order."""
    calls = [
        {"id": call_id, "type": "function", "function": dict(call)}
        for call_id, call in zip(call_ids, sample.get("tool_calls") or (), strict=True)
    ]
    text = sample["answer"] if "answer" in sample else sample["output"]
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if calls:
        message |= {"content": text or None, "tool_calls": calls}
    if sample.get("reasoning") is not None:
        # as servers of open models name it
        message["reasoning_content"] = sample["reasoning"]
    logprobs = {"content": [_chat_token(*pair) for pair in _tokens(sample)], "refusal": None}
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs if sample.get("logprobs") is not None else None,
        "finish_reason": "tool_calls" if calls and sample["finish_reason"] == "stop" else sample["finish_reason"],
    }


def text_choice(index: int, sample: Sample) -> Choice:
    """One choice of a completion."""
    tokens = _tokens(sample)
    logprobs = {
        "tokens": [text for text, _ in tokens],
        "token_logprobs": [number for _, number in tokens],
        "top_logprobs": None,
        "text_offset": [sum(len(text) for text, _ in tokens[:at]) for at in range(len(tokens))],
    }
    return {
        "text": sample["output"],
        "index": index,
        "logprobs": logprobs if sample.get("logprobs") is not None else None,
        "finish_reason": sample["finish_reason"],
    }


def _tokens(sample: Sample) -> list[tuple[str, float]]:
    return list(zip(sample.get("tokens") or (), sample.get("logprobs") or (), strict=True))


def _chat_token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
