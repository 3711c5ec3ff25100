"""Tokens around a text that a tokenizer's settings ask for, where its tokenizer.json puts none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from parquetry.workers.checkpoint.json_file import model_json

#: setting of tokenizer_config.json -> the token that it adds
_FLAGS = {"add_bos_token": "bos_token", "add_eos_token": "eos_token"}
#: tokens of the vocabulary that are tried for one that is a text
_MOST_TRIED = 64
#: text and id
Token = tuple[str, int]


def add_tokens_of_settings(tokenizer: tokenizers.Tokenizer, folder: Path) -> None:
    """Begin and end texts as `tokenizer_config.json` of `folder` says by add_bos_token and add_eos_token.

    Models such as e5-mistral are read at an end token that only these flags ask for. What tokenizer.json adds by
    itself is not added twice, and stays where a flag is off.
    """
    settings = {**_read(folder / "special_tokens_map.json"), **_read(folder / "tokenizer_config.json")}
    before, after = tokens_around(tokenizer)
    begin, end = (_token(tokenizer, settings, flag) for flag in _FLAGS)
    first = [begin] if begin is not None and begin not in before[:1] else []
    last = [end] if end is not None and end not in after[-1:] else []
    if not first and not last:
        return
    own = tokenizer.post_processor
    added = _template([*first, *before], [*after, *last])
    # of two that add tokens the second would take those of the first for texts
    tokenizer.post_processor = added if own is None or before or after else processors.Sequence([own, added])


def tokens_around(tokenizer: tokenizers.Tokenizer) -> tuple[list[Token], list[Token]]:
    """What a tokenizer puts before and after a text."""
    for text in _texts(tokenizer):
        try:
            found = tokenizer.encode(text)
        # all that the library raises where a vocabulary has no token for what it does not know
        except Exception:  # noqa: BLE001
            continue
        tokens = list(zip(found.tokens, found.ids, strict=True))
        inner = [place for place, is_special in enumerate(found.special_tokens_mask) if not is_special]
        if inner:
            return tokens[: inner[0]], tokens[inner[-1] + 1 :]
    return [], []


def _texts(tokenizer: tokenizers.Tokenizer) -> Iterator[str]:
    """A letter, and for vocabularies without letters some of their own tokens."""
    yield "a"
    most = min(tokenizer.get_vocab_size(), _MOST_TRIED)
    yield from (tokenizer.decode([number], skip_special_tokens=True) for number in range(most))


def _token(tokenizer: tokenizers.Tokenizer, settings: Mapping[str, Any], flag: str) -> Token | None:
    """The token that a flag adds, None where it is off."""
    found = settings.get(_FLAGS[flag])
    text = found.get("content") if isinstance(found, dict) else found
    if settings.get(flag) is not True or not isinstance(text, str):
        return None
    number = tokenizer.token_to_id(text)
    return None if number is None else (text, number)


def _template(before: Sequence[Token], after: Sequence[Token]) -> processors.TemplateProcessing:
    """Each text of a pair gets its own tokens, as transformers gives them."""

    def around(text: str, part: int) -> str:
        return " ".join(f"{piece}:{part}" for piece in (*(t for t, _ in before), text, *(t for t, _ in after)))

    return processors.TemplateProcessing(
        single=around("$A", 0),
        pair=f"{around('$A', 0)} {around('$B', 1)}",
        special_tokens=list({*before, *after}),
    )


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = model_json(file)
    return found
