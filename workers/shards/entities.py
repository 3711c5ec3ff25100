"""Labels of tokens to entities: neighbouring tokens of one tag, grouped as transformers' "simple" aggregation does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from parquetry.workers.preparation.tokenization import Tokenizer, Tokens

#: what a token that is part of nothing is labelled
_OUTSIDE = "O"


class EntityGrouping:
    """A new entity begins with every change of tag, and with every label B-..."""

    def __init__(self, labels: Sequence[str], tokenizer: Tokenizer, unknown_id: int | None = None) -> None:
        """`unknown_id` is the tokenizer's unknown token: in an entity's word the input text stands in its place."""
        tags = [name[2:] if name.startswith(("B-", "I-")) else name for name in labels]
        #: number of a label's tag
        self._tags = np.array([tags.index(tag) for tag in tags])
        self._begins = np.array([name.startswith("B-") for name in labels])
        self._names = [name.split("-", 1)[-1] for name in labels]
        self._tokenizer, self._unknown_id = tokenizer, unknown_id

    def entities(self, rows: Sequence[Tokens], values: Sequence[np.ndarray]) -> list[list[dict[str, object]]]:
        """One list a row; values (num_tokens, 2) are each token's label number and score."""
        return [list(self._of_row(tokens, found)) for tokens, found in zip(rows, values, strict=True)]

    def _of_row(self, tokens: Tokens, values: np.ndarray) -> Iterator[dict[str, object]]:
        assert tokens.spans is not None
        own = np.flatnonzero(~tokens.spans.is_special)
        labels, scores = values[own, 0].astype(int), values[own, 1]
        for begin, end in pairwise(self._bounds(labels)):
            name = self._names[labels[begin]]
            if name != _OUTSIDE:
                token_indices = own[begin:end]
                yield {
                    "label": name,
                    "score": float(scores[begin:end].mean()),
                    "start": int(tokens.spans.offsets[token_indices[0], 0]),
                    "end": int(tokens.spans.offsets[token_indices[-1], 1]),
                    "word": self._word(tokens, token_indices),
                }

    def _bounds(self, labels: np.ndarray) -> list[int]:
        """Where entities and runs between them begin, and the end."""
        if not len(labels):
            return []
        tags = self._tags[labels]
        is_first = np.concatenate(([True], (tags[1:] != tags[:-1]) | self._begins[labels[1:]]))
        return [*np.flatnonzero(is_first).tolist(), len(labels)]

    def _word(self, tokens: Tokens, token_indices: np.ndarray) -> str:
        ids, spans = tokens.ids[token_indices], tokens.spans
        assert spans is not None
        if self._unknown_id is None or self._unknown_id not in ids:
            return self._tokenizer.word(ids)
        texts = {
            index: spans.text[slice(*spans.offsets[token_index])]
            for index, (token_index, number) in enumerate(zip(token_indices, ids, strict=True))
            if number == self._unknown_id
        }
        return self._tokenizer.word(ids, texts)
