"""T21: attempts that are not what they should be never get the final name."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.chaos.cell import SHARD_ROWS, TIMEOUT_S, Cell
from tests.chaos.cell_block import CellBlock, total
from tests.chaos.report import Outcome

#: of each kind of damage
COUNTS = {"short": 4, "long": 100}


def run(profile: str, seed: int, folder: Path) -> list[Outcome]:
    with CellBlock(folder) as block:
        outcomes = block.run(_drivers(block, seed, COUNTS[profile]))
        return [total(f"T21 attempts damaged in {len(DAMAGES) + len(WRITES)} ways", outcomes)]


def _drivers(block: CellBlock, seed: int, count: int) -> Iterator[Callable[[], None]]:
    for number in range(count):
        for name, damage in DAMAGES.items():
            yield partial(_cell, block, f"{name}-{number}", partial(_damage_file, damage, seed + number))
        for name, write in WRITES.items():
            yield partial(_cell, block, f"{name}-{number}", partial(_damage_writes, write))


def _cell(block: CellBlock, name: str, infect: Callable[[], None]) -> None:
    """A worker whose attempts are all damaged must publish none; then a sound one makes them all."""
    cell = block.cell(name)
    cell.submit()
    faulty = cell.worker(prepare=infect, PARQUETRY_MAX_ATTEMPTS="1")
    faulty.settle(TIMEOUT_S)
    published = [path.name for path in cell.job.local_output().glob("part-*")]
    cell.outcome.require(not published, f"published: {published}")
    cell.outcome.require(cell.job.state == "failed", f"the job was {cell.job.state} after its shards had failed")
    _retry(cell)
    cell.finish([])
    cell.judge()
    cell.outcome.injected = cell.job.table.exists() * 2
    cell.save()


def _retry(cell: Cell) -> None:
    from parquetry.tasks.broker.connection import connect
    from parquetry.tasks.ledger.ledger import Ledger

    Ledger(connect(cell.server.url), cell.name).retry(cell.job.id)


def _damage_file(damage: Callable[[Path, random.Random], None], seed: int) -> None:
    """Let every attempt be damaged after it was written and checked, as by a bad disk."""
    from parquetry.tasks.shard import shard_runner as runner

    true, draw = runner.run_shard, random.Random(seed)

    def damaging(*args, attempt: Path, **kwargs):
        summary = true(*args, attempt=attempt, **kwargs)
        damage(attempt, draw)
        return summary

    runner.run_shard = damaging


def _flip_bit(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def _truncate(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def _swap_rows(path: Path, draw: random.Random) -> None:
    """A valid Parquet file with the right rows in a wrong order."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    pq.write_table(table.take(list(reversed(range(table.num_rows)))), path)


def _damage_writes(change: Callable) -> None:
    """Let the writer lose, double or move rows, so that the file is valid and its checksum true."""
    from parquetry.workers.shards.writer import PartWriter

    true = PartWriter.write
    PartWriter.write = lambda self, batch: true(self, change(batch))


def _drop_row(batch):
    return batch.slice(0, SHARD_ROWS - 1)


def _double_row(batch):
    return batch.take([0, *range(batch.num_rows)])


def _shift_rows(batch):
    """The rows of another shard."""
    import pyarrow as pa
    import pyarrow.compute as pc

    index = batch.schema.get_field_index("row")
    columns = list(batch.columns)
    columns[index] = pc.add(columns[index], pa.scalar(1, pa.int64()))
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _raise_late(batch):
    """An exception in the middle: what was written before it must not become a readable file."""
    raise RuntimeError("CUDA out of memory")


DAMAGES = {"bit": _flip_bit, "short": _truncate, "order": _swap_rows}
WRITES = {"dropped": _drop_row, "doubled": _double_row, "shifted": _shift_rows, "raised": _raise_late}
