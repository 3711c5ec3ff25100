"""One job through the whole product on 1, 2, 4 ... cards of one node: Parquet in, queue, an engine a card, Parquet out.

    python benchmarks/job_scaling.py                                   # Qwen3-0.6B shape, 8,192 rows a card
    python benchmarks/job_scaling.py --cards 1 2 --rows 2048
    python benchmarks/job_scaling.py --cpu --cards 1 2 --rows 64 --shard-rows 8 --new-tokens 8     # a dry run

The job grows with the cards, so that the tail of its last shards weighs the same. Seconds are from submit to done, on
engines that have loaded their model for a job before. `of linear` is rows a second over those of one card times the
number of cards. Target: at least 95%.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from end_to_end import job, write_rows  # noqa: E402
from fleet import Fleet, fleet  # noqa: E402
from scaling import count_cards, sizes  # noqa: E402

#: in a process of its own, so that this one holds neither weights nor a CUDA context
_WRITE = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from end_to_end import write_checkpoint
write_checkpoint(sys.argv[3], Path(sys.argv[4]))
"""
#: more than the default two, so that a card has rows enough while one of its small shards ends
IN_FLIGHT = 4
#: rows of a shard of the first job, of which every engine must get one
_FIRST_ROWS = 4


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="qwen3-0.6b", help="a shape of benchmarks/models.py")
    parser.add_argument("--cards", type=int, nargs="+", help="by default 1, 2, 4 and so on")
    parser.add_argument("--rows", type=int, default=8192, help="of a card")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--shard-rows", type=int, default=256)
    parser.add_argument("--cpu", action="store_true", help="dry run with the tiny shape; its workers share the CPU")
    return parser.parse_args()


def wake(one: Fleet, folder: Path, args: argparse.Namespace, count: int) -> None:
    """Have every engine load the model: each claims a shard before any of them has finished one."""
    rows = _FIRST_ROWS * IN_FLIGHT * count
    one.seconds(job(folder, "first", args, limit=rows, shard_rows=_FIRST_ROWS))
    ready = one.num_ready()
    if ready < count:
        raise RuntimeError(f"only {ready} of {count} engines took part in the first job")


def measure(model: Path, args: argparse.Namespace, count: int) -> float:
    """Rows a second of a job on `count` cards; its output is checked to hold every row once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").symlink_to(model)
        write_rows(folder / "rows.parquet", count * args.rows)
        gpus = "none" if args.cpu else ",".join(map(str, range(count)))
        with fleet(folder, gpus=gpus, settings={"PARQUETRY_SHARDS_IN_FLIGHT": str(IN_FLIGHT)}) as one:
            wake(one, folder, args, 1 if args.cpu else count)
            seconds = one.seconds(job(folder, "out", args))
        output = pq.read_table(folder / "out", columns=["row", "error"])
    assert sorted(output["row"].to_pylist()) == list(range(count * args.rows))
    assert output["error"].null_count == len(output), output["error"].drop_null()[0]
    return count * args.rows / seconds


def main() -> None:
    args = parse_args()
    cards = args.cards or sizes(1 if args.cpu else count_cards())
    print(f"{args.model}, {args.rows} rows a card, {args.new_tokens} tokens each, shards of {args.shard_rows} rows")
    print("| cards | rows | seconds | rows/s | of linear |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        shape = "tiny" if args.cpu else args.model
        subprocess.run([sys.executable, "-c", _WRITE, str(HERE), str(HERE.parent), shape, name], check=True)
        rates: dict[int, float] = {}
        for count in cards:
            rates[count] = measure(Path(name), args, count)
            share = rates[count] / rates[cards[0]] * cards[0] / count
            rows = count * args.rows
            print(f"| {count} | {rows:,} | {rows / rates[count]:.1f} | {rates[count]:,.0f} | {share:.2f} |", flush=True)


if __name__ == "__main__":
    main()
