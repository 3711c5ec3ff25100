"""Types told by the block are those told line by line, or none are told."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parquetry.schemas.spec.formats import FileKind
from parquetry.workers.reading import text_scan
from parquetry.workers.reading.json_blocks import arrow_types, line_blocks
from parquetry.workers.reading.text_scan import TextFacts, scan

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["2024-01-01", "2024-01-01T00:00:00Z", "\ud800", "[{", '":']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(["k", "l", "m n"]), VALUES, max_size=3), min_size=1, max_size=8)


def scanned(data: bytes) -> TextFacts:
    return scan(io.BytesIO(data), FileKind("jsonl"), "x", types="auto", limit=None)


def by_line(data: bytes, monkeypatch: pytest.MonkeyPatch) -> TextFacts:
    with monkeypatch.context() as patch:
        patch.setattr(text_scan, "arrow_types", lambda _: None)
        return scanned(data)


@settings(max_examples=300, deadline=None)
@given(rows=ROWS, ascii=st.booleans(), end=st.sampled_from(["\n", "\r\n"]), closed=st.booleans())
def test_both_ways_tell_the_same(rows: list[dict[str, Any]], ascii: bool, end: str, closed: bool):
    text = end.join(json.dumps(row, ensure_ascii=ascii) for row in rows) + (end if closed else "")
    data = text.encode("utf-8", "surrogatepass")
    found = scanned(data)
    with pytest.MonkeyPatch.context() as patch:
        expected = by_line(data, patch)
    assert (found.types, found.num_rows, found.num_malformed, found.malformed) == (
        expected.types, expected.num_rows, expected.num_malformed, expected.malformed,
    )  # fmt: skip
    assert list(found.types) == list(expected.types)


@pytest.mark.parametrize("block", [
    b'{"a": 1}{"a": 2}\n', b'{"a": 1}\r{"a": 2}\n', b'\n{"a": 1}\n', b' {"a": 1}\n', b"[1]\n", b'{"a":\n1}\n',
    b'{"a": "\xff"}\n',
    b'{"a": 12345678901234567890}\n', b'{"a": 9007199254740993}\n{"a": 0.5}\n', b'{"a": 1, "a": 2}\n',
    b'{"a": 1e400}\n',
    b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", b'{"a": ' * 100_000 + b"1" + b"}" * 100_000 + b"\n",
    b'{"s": "' + b"]" * 100_000 + b'", "a": ' + b'["]",' * 100_000 + b"1" + b"]" * 100_000 + b"}\n",
    b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}\n",
])  # fmt: skip
def test_blocks_that_take_a_closer_look(block):
    assert arrow_types(block) is None


def test_plain_blocks_take_none():
    block = b'{"a": "2024-01-01", "b": [{"c": 1}], "d": 0.5}\r\n{"a": "x", "d": 2}\n'
    assert {name: str(kind) for name, kind in (arrow_types(block) or {}).items()} == {
        "a": "string", "b": "list<item: struct<c: int32>>", "d": "double",
    }  # fmt: skip


@pytest.mark.parametrize("length", [10, 3_000_000, 9_000_000])
def test_blocks_hold_whole_lines_and_all_of_them(length, monkeypatch):
    lines = [b'{"a": "%s"}\n' % (b"x" * (length + number)) for number in range(5)]
    stream = io.BufferedReader(io.BytesIO(b"".join(lines)))
    blocks = list(line_blocks(stream, 1 << 30))
    assert b"".join(block for block, _ in blocks) == b"".join(lines)
    assert all(block.endswith(b"\n") and len(block) == size for block, size in blocks)


def test_a_line_beyond_the_limit_is_no_more_than_itself():
    lines = b'{"a": 1}\n{"a": "' + b"x" * 20_000_000 + b'"}\n{"a": 2}\n'
    blocks = list(line_blocks(io.BufferedReader(io.BytesIO(lines)), 6_000_000))
    assert sum(size for _, size in blocks) == len(lines)
    assert max(len(block) for block, _ in blocks) < 11_000_000
    assert blocks[-1] == (b'{"a": 2}\n', 9)
