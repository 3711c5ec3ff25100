"""Cells that Python or the tokenizer cannot take: text where they have one, else that row's error."""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
import tokenizers

from parquetry.schemas.errors import RowError
from parquetry.workers.preparation import tokenization
from parquetry.workers.preparation.cells import cells, or_error
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.reading.plain_text import with_plain_text

NS = 1_700_000_000_123_456_789
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")
FAR = int(np.datetime64("12024-02-29T00:00:00", "us").astype(int))


@pytest.mark.parametrize(("array", "text"), [
    (pa.array([NS], pa.timestamp("ns")), "2023-11-14T22:13:20.123456789"),
    (pa.array([NS - 789], pa.timestamp("ns")), "2023-11-14T22:13:20.123456"),
    (pa.array([NS], pa.timestamp("ns", "Europe/Berlin")), "2023-11-14T23:13:20.123456789+01:00"),
    (pa.array([0], pa.timestamp("s", "+02:30")), "1970-01-01T02:30:00+02:30"),
    (pa.array([-1], pa.timestamp("ns")), "1969-12-31T23:59:59.999999999"),
    (pa.array([FAR], pa.timestamp("us")), "12024-02-29T00:00:00"),
    (pa.array([FAR], pa.timestamp("us", "UTC")), "12024-02-29T00:00:00+00:00"),
    (pa.array([FAR // 86_400_000_000], pa.date32()), "12024-02-29"),
    (pa.array([FAR // 1000], pa.date64()), "12024-02-29"),
    (pa.array([5], pa.time64("ns")), "00:00:00.000000005"),
    (pa.array([3_600_000], pa.time32("ms")), "01:00:00"),
    (pa.array([86_400_000_000_001], pa.duration("ns")), "1 day, 0:00:00.000000001"),
    (pa.array([pa.MonthDayNano([1, 2, 3])]), "1 months, 2 days, 0:00:00.000000003"),
    (pa.array([Decimal("1.50")]), "1.50"),
    (pa.array([ID.bytes], pa.uuid()), str(ID)),
    (pa.array([1.5], pa.float16()), 1.5),
    (pa.array([[NS]], pa.list_(pa.timestamp("ns"))), ["2023-11-14T22:13:20.123456789"]),
    (pa.array([[NS]], pa.list_(pa.timestamp("ns"), 1)), ["2023-11-14T22:13:20.123456789"]),
    (pa.array([{"t": NS}], pa.struct([("t", pa.timestamp("ns"))])), {"t": "2023-11-14T22:13:20.123456789"}),
    (pa.array([[("k", NS)]], pa.map_(pa.string(), pa.timestamp("ns"))), {"k": "2023-11-14T22:13:20.123456789"}),
    (pa.array(["x"], pa.string_view()), "x"),
    (pa.array(['{"a": 1}'], pa.json_()), '{"a": 1}'),
])  # fmt: skip
def test_types_that_python_lacks(array, text):
    assert cells("c", array) == [text]
    both = pa.concat_arrays([array, pa.nulls(1, array.type), array])
    assert cells("c", both) == [text, None, text]
    assert cells("c", both.slice(2)) == [text]


def test_times_are_written_as_python_writes_them():
    moments = [datetime(2026, 1, 2, 3, 4, 5, 600), datetime(1960, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)]
    assert with_plain_text(pa.array(moments, pa.timestamp("us"))).to_pylist() == [m.isoformat() for m in moments]
    dates = [moment.date() for moment in moments]
    assert with_plain_text(pa.array(dates)).to_pylist() == [d.isoformat() for d in dates]


def test_keys_that_repeat_spoil_their_own_row():
    maps = pa.array([[("k", 1)], [("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64()))
    good, bad = cells("m", maps)
    assert good == {"k": 1}
    assert str(bad).startswith("m cannot be read: KeyError")


def test_whatever_a_library_raises_is_the_rows_error():
    def fails(error: BaseException):
        raise error

    class PanicException(BaseException):
        pass

    assert str(or_error(fails, KeyError("x"))) == "KeyError: 'x'"
    assert str(or_error(fails, PanicException("index out of bounds"))) == "PanicException: index out of bounds"
    for error in (KeyboardInterrupt(), MemoryError()):
        with pytest.raises(type(error)):
            or_error(fails, error)


def small_tokenizer() -> Tokenizer:
    vocab = {"[UNK]": 0, "a": 1, "b": 2, " ": 3}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [], unk_token="[UNK]"))
    return Tokenizer(inner)


class Panicking:
    """A tokenizer that panics over one text, as its Rust code may."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner = inner

    def encode_batch_fast(self, texts, **options):
        class PanicException(BaseException):
            pass

        if "bad" in texts:
            raise PanicException("byte index 1 is not a char boundary")
        return self._inner.encode_batch_fast(texts, **options)


def test_a_panic_spoils_its_own_text():
    tokenizer = small_tokenizer()
    tokenizer._tokenizer = Panicking(tokenizer._tokenizer)
    found = tokenizer.encode(["a", "b", "bad", "a", "bad"], special_tokens=False, limit=9, truncate="error")
    assert [isinstance(tokens, RowError) for tokens in found] == [False, False, True, False, True]
    assert "PanicException: byte index 1" in str(found[2])


def test_a_huge_text_is_cut_before_it_is_encoded(monkeypatch):
    monkeypatch.setattr(tokenization, "_LEAST_CHARACTERS", 1000)
    tokenizer = small_tokenizer()
    text = "a" * 5000 + "b" * 5000

    def encode(truncate):
        return tokenizer.encode([text], special_tokens=False, limit=4, truncate=truncate)[0]

    assert encode("right").ids.tolist() == [1] * 4
    assert encode("left").ids.tolist() == [2] * 4
    assert str(encode("error")) == "10,000 characters, but at most 4 tokens fit"


def test_encoding_a_long_text_lets_other_threads_go_on(monkeypatch):
    """Only the batch methods of the tokenizer give up the interpreter's lock."""
    tokenizer = small_tokenizer()

    class Watched:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            assert name != "encode", "it holds the lock for as long as it takes"
            return getattr(self._inner, name)

    tokenizer._tokenizer = Watched(tokenizer._tokenizer)
    tokenizer.encode(["a" * 300_000], special_tokens=True, limit=5, truncate="right")
    tokenizer.encode_pairs([("a" * 300_000, "b")], limit=5, truncate="left")
