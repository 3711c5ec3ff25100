"""Stop strings are found across tokens and cut where they begin."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models

from parquetry.workers.stops import StopMatcher, cut_at_stop


def make_matcher(*stop: str) -> StopMatcher:
    tokenizer = Tokenizer(models.WordLevel({"ab": 0, "cd": 1, "e": 2, "a": 3}, unk_token="e"))
    tokenizer.decoder = decoders.Fuse()
    return StopMatcher(tokenizer, stop)


def test_a_stop_string_may_span_tokens() -> None:
    matcher = make_matcher("bcde")
    assert [matcher.push(token) for token in (0, 1, 3, 0, 1, 2)] == [False] * 5 + [True]


def test_any_of_several_strings_ends_the_text() -> None:
    matcher = make_matcher("zzzz", "e")
    assert [matcher.push(token) for token in (0, 2)] == [False, True]


def test_text_is_cut_at_the_first_stop() -> None:
    assert cut_at_stop("one\ntwo. three", (".", "\n")) == "one"
    assert cut_at_stop("nothing", ("x", "")) == "nothing"
