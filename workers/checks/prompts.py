"""What a loaded model is tried on: the beginnings of ordinary texts, in the model's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

#: prose, code, a list of facts and two more scripts; each is repeated until it is long enough
TEXTS = (
    "The ferry leaves the harbour twice a day in winter, at eight in the morning and at four in the afternoon. "
    "Passengers who travel with a bicycle should arrive a quarter of an hour earlier, since there is only one ramp. "
    "When the wind is strong the crew may cancel a crossing, and tickets are then good for any later day. ",
    "def mean(values: list[float]) -> float:\n    total = 0.0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n\n\nprint(mean([1.5, 2.5, 4.0]))  # 2.6666666666666665\n",
    "Question: which of these rivers is the longest? Answer: the second, with 1,233 km. Die Brücke wurde im Jahr 1907 "
    "gebaut und seitdem zweimal erneuert. Le pont a été construit en 1907. 橋は1907年に建てられました。 ",
)
#: ids that a vocabulary may keep for special tokens, which training hardly saw
NUM_RESERVED = 16


class TokenizedText(Protocol):
    """What a tokenizer makes of a text."""

    @property
    def ids(self) -> list[int]:
        """Token ids."""


class TextTokenizer(Protocol):
    """A tokenizer, as far as prompts are made with it."""

    def encode(self, sequence: str, /) -> TokenizedText:
        """The text as tokens."""


def check_prompts(tokenizer: TextTokenizer | None, vocab_size: int, lengths: Sequence[int]) -> list[np.ndarray]:
    """One prompt of int32 ids for each of `lengths`, each the beginning of another text.

    Activations of a trained model on ids that it has hardly seen say nothing of use: rounding there may be ten times
    what it is on text. Without a tokenizer the ids are random, which is all that a model of random weights needs.
    """
    random = np.random.default_rng(0)
    first = NUM_RESERVED if vocab_size > 4 * NUM_RESERVED else 0
    prompts = []
    for number, length in enumerate(lengths):
        ids = [] if tokenizer is None else beginning(tokenizer, TEXTS[number % len(TEXTS)], length)
        # a tokenizer may know tokens that the model has no row for, or make none of this text
        known = [id for id in ids if id < vocab_size]
        filled = [*known, *random.integers(first, vocab_size, length - len(known)).tolist()]
        prompts.append(np.asarray(filled, dtype=np.int32))
    return prompts


def beginning(tokenizer: TextTokenizer, text: str, length: int) -> list[int]:
    """The first `length` tokens of a text, which is repeated; fewer where there are not as many, or none are known."""
    repeats = 1 + 4 * length // max(len(text), 1)
    try:
        return tokenizer.encode(text * repeats).ids[:length]
    # all that the library raises where a vocabulary has no token for what it does not know
    except Exception:  # noqa: BLE001
        return []
