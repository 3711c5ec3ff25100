"""The shard plan: which rows of which files every shard holds, in a few bytes a shard."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate, pairwise

from pydantic import BaseModel, ConfigDict

from parquetry.schemas.spec.formats import Compression, Format

#: a place in a text file where a row begins: the row's number, its byte in the uncompressed text, its line (from 1)
Mark = tuple[int, int, int]


class InputFile(BaseModel):
    """One input file as it was when the job was submitted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: normalized location, e.g. /data/a.parquet or s3://bucket/a.parquet
    path: str
    num_rows: int
    #: bytes
    size: int
    etag: str
    #: hive partition columns read off the path, in path order; None is a null
    partitions: dict[str, str | None] = {}
    format: Format = "parquet"
    #: of the whole file
    compression: Compression | None = None
    #: of a text file, some megabytes apart, so that a shard in its middle is found without reading what is before
    marks: tuple[Mark, ...] = ()
    #: of a file of requests, rows whose custom_id an earlier row of the input has
    repeated_rows: tuple[int, ...] = ()


class Slice(BaseModel):
    """Rows [start, stop) of one file."""

    model_config = ConfigDict(frozen=True)

    file: InputFile
    start: int
    stop: int

    @property
    def num_rows(self) -> int:
        return self.stop - self.start


class Shard(BaseModel):
    """Rows [first_row, first_row + num_rows) of the job's input, as slices of its files."""

    model_config = ConfigDict(frozen=True)

    index: int
    first_row: int
    num_rows: int
    slices: tuple[Slice, ...]

    @property
    def part_name(self) -> str:
        """Final name of the shard's output; a pure function of the index."""
        return part_name(self.index)


class ShardPlan(BaseModel):
    """Files in input order, and the rows at which shards begin.

    Shard i holds rows [bounds[i], bounds[i + 1]) of the files laid end to end.
    """

    model_config = ConfigDict(extra="forbid")

    files: tuple[InputFile, ...]
    #: ascending, first 0, last the number of rows
    bounds: tuple[int, ...]

    @property
    def num_shards(self) -> int:
        return len(self.bounds) - 1

    @property
    def num_rows(self) -> int:
        return self.bounds[-1]

    @property
    def rows_per_shard(self) -> int:
        """Of the largest shard."""
        return max(stop - start for start, stop in pairwise(self.bounds))

    @cached_property
    def _file_starts(self) -> list[int]:
        return [0, *accumulate(file.num_rows for file in self.files)]

    def shard(self, index: int) -> Shard:
        """The shard with this index; IndexError outside [0, num_shards)."""
        if not 0 <= index < self.num_shards:
            raise IndexError(f"shard {index} of {self.num_shards}")
        return self.cut(index, self.bounds[index], self.bounds[index + 1])

    def cut(self, index: int, first: int, stop: int) -> Shard:
        """Rows [first, stop) of the input as if they were all of a shard: to read a few of its rows again."""
        return Shard(index=index, first_row=first, num_rows=stop - first, slices=tuple(self._slices(first, stop)))

    def _slices(self, first: int, stop: int) -> Iterator[Slice]:
        starts = self._file_starts
        number = bisect_right(starts, first) - 1
        while first < stop:
            file_start, file_stop = starts[number], starts[number + 1]
            last = min(stop, file_stop)
            if last > first:
                yield Slice(file=self.files[number], start=first - file_start, stop=last - file_start)
            first, number = max(first, last), number + 1


def part_name(index: int) -> str:
    """part-00000042.parquet for index 42."""
    return f"part-{index:08d}.parquet"


def attempt_name(index: int, fence: int) -> str:
    """Where the attempt with this fencing token writes before it is published."""
    return f"_attempts/part-{index:08d}.{fence}.parquet"
