"""The generation section of a spec as engines take it."""

from __future__ import annotations

from parquetry.schemas.errors import InvalidValueError
from parquetry.schemas.spec.generation import GenerationSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.grammar.grammar import Grammar
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.request import SamplingParams

#: fields of the same name and meaning on both sides
_COMMON = (
    "max_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "seed", "skip_special_tokens", "logprobs",
)  # fmt: skip


def sampling_params(generation: GenerationSpec, tokenizer: Tokenizer) -> SamplingParams:
    """How each request's tokens are chosen. Raises GrammarError and MissingPackageError."""
    return SamplingParams(
        **{name: getattr(generation, name) for name in _COMMON},
        stop=tuple(generation.stop),
        stop_ids=stop_ids(generation, tokenizer),
        grammar=checked_grammar(generation),
    )


def checked_grammar(generation: GenerationSpec) -> str | None:
    """The text of what outputs must follow, None where they are free. Raises GrammarError and MissingPackageError."""
    grammar = Grammar.of(generation)
    if grammar is None:
        return None
    grammar.check()
    return grammar.text


def stop_ids(generation: GenerationSpec, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids that end an output: those of the spec, and of stop strings that are the text of one special token.

    Special tokens tend to be no part of an output's text, where such a string would never be found.
    """
    special = (tokenizer.special_id(text) for text in generation.stop)
    return tuple(sorted({*generation.stop_token_ids, *(token for token in special if token is not None)}))


def check_stop_ids(generation: GenerationSpec, checkpoint: Checkpoint) -> None:
    """Raise InvalidValueError for an id that the model can never write."""
    size = int(checkpoint.text_config.get("vocab_size") or 2**31)
    beyond = next((token for token in generation.stop_token_ids if token >= size), None)
    if beyond is not None:
        reason = f"the model's token ids end at {size - 1}"
        raise InvalidValueError(key="generation.stop_token_ids", value=beyond, reason=reason)
