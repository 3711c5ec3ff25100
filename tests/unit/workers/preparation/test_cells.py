"""Arrow cells as plain values, bad ones as errors in their place."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from parquetry.schemas.errors import RowError
from parquetry.workers.preparation.cells import cells, text_of


def broken_utf8() -> pa.Array:
    """A string column whose second value is not UTF-8, as a careless writer leaves it."""
    return pa.array([b"ok", b"\xff\xfe", None], pa.binary()).view(pa.string())


def test_bytes_that_are_not_utf8_spoil_their_own_row_only():
    good, bad, null = cells("text", broken_utf8())

    assert (good, null) == ("ok", None)
    assert str(bad) == "text is not valid UTF-8"


def test_binary_columns_are_read_as_text():
    good, bad = cells("text", pa.array(["é".encode(), b"\xff"], pa.binary()))

    assert good == "é"
    assert isinstance(bad, RowError)


def test_other_types_become_text_or_plain_structures():
    when = datetime(2026, 1, 2, tzinfo=UTC)

    assert cells("t", pa.array([when], pa.timestamp("us", tz="UTC"))) == ["2026-01-02T00:00:00+00:00"]
    assert cells("d", pa.array([Decimal("1.50")])) == ["1.50"]
    assert cells("s", pa.array([{"a": [1, None]}])) == [{"a": [1, None]}]
    assert cells("c", pa.array(["x", None, "x"]).dictionary_encode()) == ["x", None, "x"]


def test_text_of_a_cell():
    assert [text_of("t", value) for value in ("", "a", 3, 1.5, True)] == ["", "a", "3", "1.5", "True"]
    with pytest.raises(RowError, match="t is null"):
        text_of("t", None)
    with pytest.raises(RowError, match="t is not text"):
        text_of("t", ["a"])
