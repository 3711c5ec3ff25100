"""Columns of one file as the job's: the same types for every file, and no cell that spoils more than its row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from parquetry.schemas.settings import settings
from parquetry.workers.reading.input_rows import InputRows
from parquetry.workers.reading.lists import own_values
from parquetry.workers.reading.parquet_rows import BATCH_BYTES, longest_in_dictionaries
from parquetry.workers.reading.utf8 import repaired
from parquetry.workers.reading.widening import is_list

#: how many cells of columns that are carried and no more were repaired, by column
Repairs = Counter[str]


class Conforming:
    """Brings the batches of one file into the job's schema."""

    def __init__(
        self, schema: pa.Schema, used: Collection[str], partitions: Mapping[str, str | None], repairs: Repairs
    ) -> None:
        """`used` are the columns whose values reach the model: text that is repaired in them is the row's error."""
        self._schema = schema
        self._repairs = repairs
        self._used = frozenset(used)
        self._partitions = partitions

    def rows(self, batch: pa.RecordBatch, faults: Mapping[int, str] | None = None) -> Iterator[InputRows]:
        """The batch with exactly the columns of the schema, in pieces that fit into memory."""
        places = {name: place for place, name in enumerate(batch.schema.names)}
        for start, num_rows in _spans(batch):
            piece = batch.slice(start, num_rows)
            mine = {row - start: fault for row, fault in (faults or {}).items() if 0 <= row - start < num_rows}
            columns = [self._column(piece, places, field, mine) for field in self._schema]
            _refuse_large_rows(columns, mine)
            yield InputRows(pa.RecordBatch.from_arrays(columns, schema=self._schema), mine)

    def _column(
        self, batch: pa.RecordBatch, places: Mapping[str, int], field: pa.Field, faults: dict[int, str]
    ) -> pa.Array:
        place = places.get(field.name)
        if place is None:
            value = self._partitions.get(field.name)
            if value is None:
                return pa.nulls(batch.num_rows, field.type)
            return pa.array([value] * batch.num_rows, pa.string()).cast(field.type)
        column = _without_large_cells(field.name, batch.column(place), faults)
        column, unfit = converted(column, field.type)
        for row in unfit:
            faults.setdefault(row, f"{field.name} holds a value that is no {field.type}")
        column, broken = repaired(column)
        self.repaired(field.name, broken, faults)
        return column

    def repaired(self, name: str, rows: Collection[int], faults: dict[int, str]) -> None:
        """Say that cells of these rows were repaired: to the row where the cell is used, else in the part."""
        if name in self._used:
            for row in rows:
                faults.setdefault(row, f"{name} is not valid UTF-8")
        elif rows:
            self._repairs[name] += len(rows)


def _spans(batch: pa.RecordBatch) -> Iterator[tuple[int, int]]:
    """Starts and lengths of pieces whose cells fit into memory once their dictionaries are gone."""
    longest = max(map(longest_in_dictionaries, batch.columns), default=0)
    if longest * batch.num_rows <= BATCH_BYTES:
        yield 0, batch.num_rows
        return
    rows = max(1, BATCH_BYTES // longest)
    yield from ((start, min(rows, batch.num_rows - start)) for start in range(0, batch.num_rows, rows))


def _without_large_cells(name: str, column: pa.Array, faults: dict[int, str]) -> pa.Array:
    """The column with null for every cell above the setting."""
    limit = settings().max_cell_bytes
    if column.nbytes <= limit and longest_in_dictionaries(column) <= limit:
        return column
    large = {row for row in range(len(column)) if _expanded_bytes(column.slice(row, 1)) > limit}
    reason = f"{name} has more than {limit:,} bytes; raise PARQUETRY_MAX_CELL_BYTES to take it"
    faults.update({row: reason for row in large if row not in faults})
    return column.take(pa.array([None if row in large else row for row in range(len(column))], pa.int64()))


def _expanded_bytes(array: pa.Array) -> int:
    """Bytes of an array whose dictionaries would be written out, told without writing them out."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return pc.sum(pc.take(pc.binary_length(array.dictionary), array.indices)).as_py() or 0
    if is_list(kind) and longest_in_dictionaries(array):
        return _expanded_bytes(array.flatten())
    if pa.types.is_struct(kind):
        return sum(_expanded_bytes(array.field(place)) for place in range(len(kind)))
    return array.nbytes


def _refuse_large_rows(columns: list[pa.Array], faults: dict[int, str]) -> None:
    """Rows that are too large together, though no cell of them is."""
    limit = settings().max_row_bytes
    if sum(column.nbytes for column in columns) <= limit:
        return
    for row in range(len(columns[0])):
        if sum(column.slice(row, 1).nbytes for column in columns) > limit:
            faults.setdefault(row, f"the row has more than {limit:,} bytes; raise PARQUETRY_MAX_ROW_BYTES to take it")


def converted(column: pa.Array, kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    """The column as another type, null where a value cannot be, and the rows of these."""
    if column.type == kind:
        return column, []
    try:
        return _cast(column, kind), []
    except pa.ArrowInvalid:
        cells = [_converted_cell(column.take(pa.array([row])), kind) for row in range(len(column))]
        unfit = [row for row, cell in enumerate(cells) if cell is None]
        empty = pa.nulls(1, kind)
        return pa.concat_arrays([empty if cell is None else cell for cell in cells]), unfit


def _converted_cell(cell: pa.Array, kind: pa.DataType) -> pa.Array | None:
    try:
        return _cast(cell, kind)
    except pa.ArrowInvalid:
        return None


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Arrow's cast, also of structs that lack a field. Raises pa.ArrowInvalid for a value that does not fit."""
    if isinstance(array.type, pa.BaseExtensionType) and not isinstance(kind, pa.BaseExtensionType):
        array = array.storage
    if pa.types.is_struct(kind) and pa.types.is_struct(array.type):
        return _cast_struct(array, kind)
    if pa.types.is_list(kind) and is_list(array.type):
        plain = array if pa.types.is_list(array.type) else array.cast(pa.list_(array.type.value_type))
        # Arrow would cast all that a slice is cut from
        offsets, values = own_values(plain)
        return pa.ListArray.from_arrays(offsets, _cast(values, kind.value_type), type=kind, mask=plain.is_null())
    return array.cast(kind)


def _cast_struct(array: pa.Array, kind: pa.DataType) -> pa.Array:
    places = {field.name: place for place, field in enumerate(array.type)}
    children = [
        _cast(array.field(places[field.name]), field.type) if field.name in places else pa.nulls(len(array), field.type)
        for field in kind
    ]
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())
