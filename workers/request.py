"""What travels to and from an engine: requests in, results out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one request's tokens are chosen, in the order of transformers' generate: penalties, temperature, filters.

    `temperature` 0 is greedy. What does nothing: `top_k` 0, `top_p` 1, `min_p` 0, `repetition_penalty` 1 and the other
    penalties 0. The first penalty is over prompt and output, the others are over the output.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    #: strings that end the output; the match itself is not part of it
    stop: tuple[str, ...] = ()
    #: token ids that end the output besides the model's own end-of-sequence ids
    stop_ids: tuple[int, ...] = ()
    #: whether stop strings are looked for in a text without special tokens
    skip_special_tokens: bool = True
    #: what the output must follow, as `parquetry.workers.grammar.grammar.Grammar.text`; None leaves it free
    grammar: str | None = None
    logprobs: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerationRequest:
    """One prompt to generate from. Randomness is keyed by (params.seed, row, sample, position), never by the batch."""

    #: unique within one connection to the engine
    id: int
    #: (num_prompt_tokens,) int32
    prompt_ids: np.ndarray
    #: position of the row in the job's input
    row: int = 0
    #: which of the row's `n` samples this is
    sample: int = 0
    #: name of the adapter to answer with, None for the model as it is
    adapter: str | None = None
    params: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True, kw_only=True, eq=False)
class VisionRequest(GenerationRequest):
    """A prompt with images. The engine tokenizes it: how many tokens an image takes depends on the model."""

    prompt_ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    #: the prompt, with the model's placeholder where each image belongs; a plain one without any gets them in front
    text: str
    #: encoded image files, in the order of their placeholders
    images: tuple[bytes, ...] = ()
    #: whether no chat template has written the text
    is_plain: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodeRequest:
    """One text, or pair of texts, to classify, score or embed."""

    id: int
    #: (num_tokens,) int32, special tokens included
    token_ids: np.ndarray
    #: (num_tokens,) int32 segment ids of a text pair, None for a single text
    token_type_ids: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Completion:
    """A finished generation request."""

    id: int
    #: (num_output_tokens,) int32, without the end-of-sequence token
    output_ids: np.ndarray
    #: "stop", "length" or "error"
    finish_reason: str
    #: (num_output_tokens,) float32 log-probabilities of the chosen tokens, when asked for
    logprobs: np.ndarray | None = None
    #: tokens of the prompt where only the engine knows them, as with images
    num_prompt_tokens: int | None = None
    #: one short sentence when finish_reason is "error"
    error: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoding:
    """A finished encode request."""

    id: int
    #: float32; empty on error: (num_labels,) scores, (dim,) embedding, or of token labels (2 * num_tokens,), the best
    #: label's number and its probability for every token
    values: np.ndarray
    error: str | None = None


class UnderWay(NamedTuple):
    """How far an engine is with one unfinished request."""

    id: int
    #: positions of its prompt that are computed, those that a cached prefix saved among them
    num_prompt: int
    #: tokens of its output
    num_output: int


Request = GenerationRequest | EncodeRequest
Result = Completion | Encoding
