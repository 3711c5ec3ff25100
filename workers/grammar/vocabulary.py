"""A model's tokenizer as the grammar library reads it."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import tokenizers

from parquetry.schemas.errors import GrammarError


def read_vocabulary(tokenizer: tokenizers.Tokenizer, vocab_size: int, eos_ids: Collection[int]) -> Any:
    """The library's tokenizer. Raises GrammarError for one whose tokens it cannot tell the bytes of."""
    from llguidance import LLTokenizer

    definition = json.loads(tokenizer.to_str())
    definition["decoder"] = _known(definition.get("decoder"))
    try:
        return LLTokenizer(json.dumps(definition), n_vocab=vocab_size, eos_token=sorted(eos_ids) or None)
    except ValueError as error:
        reason = f"the grammar library does not know how its tokenizer writes text ({str(error)[:80]}...)"
        raise GrammarError(kind="model's vocabulary", reason=reason) from None


def _known(decoder: dict[str, Any] | None) -> dict[str, Any] | None:
    """SentencePiece's own decoder, as T5 has it, in the steps that the library knows from Llama."""
    if decoder is None or decoder["type"] != "Metaspace":
        return decoder
    space = {"type": "Replace", "pattern": {"String": decoder["replacement"]}, "content": " "}
    return {"type": "Sequence", "decoders": [space, {"type": "ByteFallback"}, {"type": "Fuse"}]}
