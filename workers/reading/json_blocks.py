"""JSON Lines by the block: Arrow tells the types of thousands of lines at once, wherever it cannot be mistaken.

Arrow's parser is many times faster than Python's, and looser: it takes several objects of a line, turns text that looks
like dates into timestamps and large integers into doubles, and ends the process on nested lines. A block with any of
these is read line by line.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from parquetry.workers.reading.json_decoding import MAX_DEPTH
from parquetry.workers.reading.lines import skip_line
from parquetry.workers.reading.text_types import EXACT, TEXT, narrowed

#: bytes of a block, and up to a line more
_BLOCK_BYTES = 4 << 20
_NEWLINE, _RETURN, _OPEN, _CLOSE = 10, 13, ord("{"), ord("}")
#: `[` and `{` differ in the other bit alone
_SAME = 0xDF
#: of `[` and `{` in a line: far more levels end the process
_MAX_OPEN = 1000
#: levels that the line by line reading takes too
_SURE_DEPTH = MAX_DEPTH // 2


class _UnsureError(Exception):
    """Python's parser might see another type."""


def line_blocks(stream: io.BufferedReader, max_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Whole lines, some megabytes together, each time with how far the stream went for them.

    Of a last line that is longer than `max_bytes`, the first of its bytes alone are there. Raises OSError.
    """
    while data := stream.read(_BLOCK_BYTES):
        size = len(data)
        if not data.endswith(b"\n"):
            rest = stream.readline(max_bytes + 1)
            data, size = data + rest, size + len(rest)
            if rest and not rest.endswith(b"\n"):
                size += skip_line(stream, rest)
        yield data, size


def arrow_types(block: bytes) -> dict[str, pa.DataType] | None:
    """The type of each key in a block whose every line is one object; None where that takes a closer look."""
    try:
        block.decode("utf-8")
        num_lines = _num_plain_lines(np.frombuffer(block, np.uint8))
        options = pj.ReadOptions(use_threads=False, block_size=len(block) + 1)
        table = pj.read_json(pa.BufferReader(block), read_options=options)
        if table.num_rows != num_lines:
            return None
        columns = zip(table.column_names, table.combine_chunks().columns, strict=True)
        return {name: _exact_type(column.chunk(0)) for name, column in columns}
    except (_UnsureError, UnicodeDecodeError, pa.ArrowException):
        return None


def _num_plain_lines(block: np.ndarray) -> int:
    """How many lines there are. Raises _UnsureError unless each begins and ends as an object does."""
    ends = np.flatnonzero(block == _NEWLINE)
    if not len(block) or block[-1] != _NEWLINE:
        ends = np.append(ends, len(block))
    starts = np.append(0, ends[:-1] + 1)
    last = ends - 1 - (block[ends - 1] == _RETURN)
    if np.any(last <= starts) or np.any(block[starts] != _OPEN) or np.any(block[last] != _CLOSE):
        raise _UnsureError
    # brackets within strings count as well
    opens = np.flatnonzero((block & _SAME) == _OPEN & _SAME)
    if np.any(np.diff(np.searchsorted(opens, ends), prepend=0) > _MAX_OPEN):
        raise _UnsureError
    return len(ends)


def _exact_type(array: pa.Array, depth: int = 0) -> pa.DataType:
    """What Python's values would give. Raises _UnsureError."""
    kind = array.type
    if pa.types.is_temporal(kind):
        return TEXT
    if depth > _SURE_DEPTH or (pa.types.is_float64(kind) and _may_hold_integers(array)):
        raise _UnsureError
    if pa.types.is_list(kind):
        return pa.list_(_exact_type(array.flatten(), depth + 1))
    if pa.types.is_struct(kind):
        fields = enumerate(kind)
        return pa.struct([(field.name, _exact_type(array.field(place), depth + 1)) for place, field in fields])
    return narrowed(array)


def _may_hold_integers(array: pa.Array) -> bool:
    """Whether a double may stand for an integer that no double holds, or for a number beyond all doubles."""
    largest = pc.max(pc.abs(array)).as_py()
    return largest is not None and largest >= EXACT
