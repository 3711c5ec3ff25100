"""Text to token ids and back, in batches, by the model's own tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeVar

import numpy as np
import tokenizers
from tokenizers import normalizers

from parquetry.schemas.errors import MissingTokenizerError, RowError
from parquetry.workers.checkpoint.tokenizer_file import read_tokenizer
from parquetry.workers.preparation.added_tokens import add_tokens_of_settings
from parquetry.workers.preparation.asked import Asked
from parquetry.workers.preparation.cells import is_of_the_row, or_error

#: a text, or a pair of texts
Input = TypeVar("Input", str, tuple[str, str])
Truncate = Literal["error", "left", "right"]
#: characters of a text that are encoded at most, for each token that fits, and whatever fits
_CHARACTERS_PER_TOKEN = 64
_LEAST_CHARACTERS = 1 << 18


@dataclass(frozen=True, eq=False)
class Spans:
    """Character offsets of a text's tokens."""

    text: str
    #: (num_tokens, 2) int32, first character of a token and the one behind its last
    offsets: np.ndarray
    #: (num_tokens,) bool, tokens the tokenizer added around the text
    is_special: np.ndarray


@dataclass(frozen=True, eq=False)
class Tokens:
    """One encoded text or pair."""

    #: (num_tokens,) int32
    ids: np.ndarray
    #: (num_tokens,) int32 segment ids, for a pair only
    type_ids: np.ndarray | None = None
    #: of a single text, where they were asked for
    spans: Spans | None = None
    #: name of the adapter the row asks for
    adapter: str | None = None
    #: where rows say how they are answered
    asked: Asked | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of images and the like that are held beside the ids."""
        return 0


class Tokenizer:
    """A tokenizer.json without the padding and truncation it may carry: rows are never padded here."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, clock: AbstractContextManager[None] | None = None) -> None:
        self._tokenizer = tokenizer
        #: entered while texts are encoded
        self._clock = clock or nullcontext()
        tokenizer.no_padding()
        tokenizer.no_truncation()

    @classmethod
    def load(cls, folder: Path, clock: AbstractContextManager[None] | None = None) -> Tokenizer:
        """Read `tokenizer.json` of a model folder, and what its settings add. Raises MissingTokenizerError."""
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise MissingTokenizerError(model=str(folder))
        tokenizer = read_tokenizer(file)
        add_tokens_of_settings(tokenizer, folder)
        return cls(tokenizer, clock)

    @property
    def vocab_size(self) -> int:
        """Ids the tokenizer can produce, added tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def id_of(self, token: str) -> int | None:
        """The id of a token given as text."""
        return self._tokenizer.token_to_id(token)

    def special_id(self, text: str) -> int | None:
        """The id of the special token of exactly this text, None where there is none."""
        return self._special_ids.get(text)

    @property
    def special_tokens(self) -> list[str]:
        """The texts of all special tokens."""
        return list(self._special_ids)

    @cached_property
    def _special_ids(self) -> dict[str, int]:
        added = self._tokenizer.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if token.special}

    def lowercase(self) -> None:
        """Lowercase texts before any other normalization."""
        own = self._tokenizer.normalizer
        first = normalizers.Lowercase()
        self._tokenizer.normalizer = first if own is None else normalizers.Sequence([first, own])

    def word(self, ids: Sequence[int] | np.ndarray, texts: Mapping[int, str] = MappingProxyType({})) -> str:
        """The text that a run of tokens stands for, as the tokenizer's decoder joins them.

        `texts` gives the tokens at some indices of the run as they are to be read.
        """
        tokens = [texts[at] if at in texts else self._token(number) for at, number in enumerate(ids)]
        decoder = self._tokenizer.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(tokens)

    def _token(self, number: int) -> str:
        return self._tokenizer.id_to_token(int(number)) or ""

    def encode(
        self,
        texts: Sequence[str],
        *,
        special_tokens: bool,
        limit: int,
        truncate: Truncate,
        why: str = "",
        spans: bool = False,
    ) -> list[Tokens | RowError]:
        """Encode each text to at most `limit` tokens, with their character offsets if `spans` is set.

        `special_tokens` adds the model's own around the text; a chat template's text has them already. A longer text
        is cut at the left or right, or becomes a RowError with both numbers, which ends in `why`.
        """
        fit = _Fit(self._tokenizer, limit, truncate, why, special_tokens, spans)
        bounded = [fit.bounded(text) for text in texts]
        found = self._each(bounded, lambda batch: self._encode(batch, special_tokens, spans), fit.single)
        return fit.refused(texts, bounded, found)

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], *, limit: int, truncate: Truncate, why: str = ""
    ) -> list[Tokens | RowError]:
        """Encode each pair of texts, special tokens included; of a pair too long the longer text is cut first."""
        fit = _Fit(self._tokenizer, limit, truncate, why, special_tokens=True)
        bounded = [(fit.bounded(first), fit.bounded(second)) for first, second in pairs]
        found = self._each(bounded, lambda batch: self._encode(batch, special_tokens=True), fit.pair)
        return fit.refused(pairs, bounded, found)

    def _encode(self, batch: Sequence[Input], special_tokens: bool, spans: bool = False) -> list[tokenizers.Encoding]:
        # the fast one keeps no account of where tokens lie in the text
        encode = self._tokenizer.encode_batch if spans else self._tokenizer.encode_batch_fast
        with self._clock:
            return encode(list(batch), add_special_tokens=special_tokens)

    def _each(
        self,
        inputs: Sequence[Input],
        encode: Callable[[Sequence[Input]], list[tokenizers.Encoding]],
        fit: Callable[[Input, tokenizers.Encoding], Tokens],
    ) -> list[Tokens | RowError]:
        try:
            encoded = encode(inputs) if inputs else []
        except BaseException as error:
            if not is_of_the_row(error):
                raise
            if len(inputs) == 1:
                reason = f"the tokenizer does not take the text ({type(error).__name__}: {str(error)[:120]})"
                return [_refusal(inputs[0]) or RowError(reason=reason)]
            # the tokenizer refuses a whole batch for one text in it
            middle: int = len(inputs) // 2
            return [*self._each(inputs[:middle], encode, fit), *self._each(inputs[middle:], encode, fit)]
        return [or_error(fit, value, encoding) for value, encoding in zip(inputs, encoded, strict=True)]

    def decode(self, ids: Sequence[Sequence[int] | np.ndarray], *, skip_special_tokens: bool = True) -> list[str]:
        """The texts of generated ids; bytes that are no UTF-8 become U+FFFD."""
        return self._tokenizer.decode_batch([list(row) for row in ids], skip_special_tokens=skip_special_tokens)


class _Fit:
    """Truncates one encoding to the limit, or refuses it."""

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        limit: int,
        truncate: Truncate,
        why: str,
        special_tokens: bool,
        spans: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        self._truncate = truncate
        self._why = why
        self._special_tokens = special_tokens
        self._spans = spans

    def bounded(self, text: str) -> str:
        """The end of the text that truncation keeps, where it is so long that the rest cannot matter.

        Encoding takes time and memory by the character, and no tokenizer makes so few tokens of text.
        """
        most = max(_LEAST_CHARACTERS, self._limit * _CHARACTERS_PER_TOKEN)
        if len(text) <= most:
            return text
        return text[-most:] if self._truncate == "left" else text[:most]

    def refused(
        self, texts: Sequence[Input], bounded: Sequence[Input], found: list[Tokens | RowError]
    ) -> list[Tokens | RowError]:
        """The same, but that a text whose rest was not looked at is refused where nothing may be cut."""
        if self._truncate != "error":
            return found
        pairs = zip(texts, bounded, found, strict=True)
        return [tokens if text == whole else self._far_too_long(text) for text, whole, tokens in pairs]

    def _far_too_long(self, text: str | tuple[str, str]) -> RowError:
        length = len(text) if isinstance(text, str) else sum(map(len, text))
        return RowError(reason=f"{length:,} characters, but at most {self._limit} tokens fit{self._why}")

    def single(self, text: str, encoding: tokenizers.Encoding) -> Tokens:
        if len(encoding) > self._limit:
            self._require_truncation(len(encoding))
            encoding = self._shortened(text)
        return Tokens(_ids(encoding), spans=_spans(text, encoding) if self._spans else None)

    def _shortened(self, text: str) -> tokenizers.Encoding:
        room = self._room(is_pair=False)
        # in batches even of one: only these let other threads go on, among them those that keep the lease
        (bare,) = self._tokenizer.encode_batch([text], add_special_tokens=False)
        bare.truncate(room, direction=self._truncate_side)
        return self._tokenizer.post_process(bare, None, self._special_tokens)

    def pair(self, texts: tuple[str, str], encoding: tokenizers.Encoding) -> Tokens:
        if len(encoding) > self._limit:
            self._require_truncation(len(encoding))
            encoding = self._shortened_pair(*texts)
        return Tokens(_ids(encoding), np.asarray(encoding.type_ids, dtype=np.int32))

    def _shortened_pair(self, first: str, second: str) -> tokenizers.Encoding:
        bare = self._tokenizer.encode_batch([first, second], add_special_tokens=False)
        lengths = _longest_first(len(bare[0]), len(bare[1]), self._room(is_pair=True))
        for encoding, length in zip(bare, lengths, strict=True):
            encoding.truncate(length, direction=self._truncate_side)
        return self._tokenizer.post_process(bare[0], bare[1], self._special_tokens)

    @property
    def _truncate_side(self) -> str:
        return "left" if self._truncate == "left" else "right"

    def _room(self, *, is_pair: bool) -> int:
        special = self._tokenizer.num_special_tokens_to_add(is_pair) if self._special_tokens else 0
        return max(self._limit - special, 0)

    def _require_truncation(self, length: int) -> None:
        if self._truncate == "error":
            raise RowError(reason=f"{length} tokens, but at most {self._limit} fit{self._why}")


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths of two texts after cutting the longer one, token by token, until both fit into `room`."""
    shorter = min(first, second, room // 2)
    return (shorter, min(second, room - shorter)) if first <= second else (min(first, room - shorter), shorter)


def _refusal(value: str | tuple[str, str]) -> RowError | None:
    """Python text may hold half of a surrogate pair, which no tokenizer takes."""
    try:
        for text in (value,) if isinstance(value, str) else value:
            text.encode("utf-8")
    except UnicodeEncodeError:
        return RowError(reason="the text is not valid Unicode (it holds half of a surrogate pair)")
    return None


def _spans(text: str, encoding: tokenizers.Encoding) -> Spans:
    offsets = np.asarray(encoding.offsets, dtype=np.int32).reshape(-1, 2)
    return Spans(text, offsets, np.asarray(encoding.special_tokens_mask, dtype=bool))


def _ids(encoding: tokenizers.Encoding) -> np.ndarray:
    return np.asarray(encoding.ids, dtype=np.int32)
