"""One table of the encoder benchmark: every side over the rows of one shape and one kind of texts."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from encoder_files import as_text, run_files, shards_in_flight
from encoder_report import Report, Result
from encoder_sides import Sides, flops
from texts import texts

HERE = Path(__file__).resolve().parent
#: the engine that a job gets, by device
JOB_SIDE = {"cpu": "padded, sorted", "cuda": "packed"}
#: tokens of one table: enough for some tens of full batches, few enough for every side to have its turn
NUM_TOKENS = {"tiny": 200_000, "minilm": 50_000, "bert-base": 6_000_000, "bert-large": 3_000_000}
#: tokens of a job through files on a GPU
FILE_TOKENS = 150_000_000
#: sides of a GPU's tables that are given a part of the rows, by how slow they are; this machine's CPU a few hundred
SHARES = {
    **dict.fromkeys(("padded, arrival order", "pipeline", "sentence-transformers", "optimum"), 12),
    **dict.fromkeys(("padded, sorted", "onnx packed", "onnx padded, sorted"), 3),
    "onnx stock export, sorted": 6,
    **dict.fromkeys(("onnx, CPU", "onnx int8, CPU"), 300),
}
#: peers that run in processes of their own, and what they import
LIBRARIES = {
    "pipeline": "transformers",
    "sentence-transformers": "sentence_transformers",
    "optimum": "optimum.onnxruntime",
}
#: the engine of a GPU's job alone, for so long that the card gets as warm as in the job
SUSTAINED = "packed, sustained"
PEER = "padded, arrival order"
RATIOS = [
    ("packed", "padded, sorted"),
    ("packed", "pipeline"),
    ("embeddings, packed", "sentence-transformers"),
    ("packed", "onnx padded, sorted"),
    ("onnx packed", "onnx padded, sorted"),
    ("onnx packed", "onnx stock export, sorted"),
    ("onnx padded, sorted", "onnx stock export, sorted"),
    ("onnx int8, sorted", "onnx padded, sorted"),
    ("onnx int8, CPU", "onnx, CPU"),
    ("onnx padded, sorted", "optimum"),
]


class Run(Protocol):
    """What a table knows of the run it is part of."""

    args: argparse.Namespace
    #: cpu or cuda
    kind: str
    #: bf16 operations a second of the card, None on a CPU
    rate: float | None
    report: Report
    #: interpreters of peers by name
    pythons: dict[str, str]

    def is_late(self, side: str) -> bool: ...

    def wants(self, side: str) -> bool: ...


class Table:
    """All sides over the rows of one shape and one kind of texts."""

    def __init__(self, benchmark: Run, shape: str, lengths: str, sides: Sides) -> None:
        self.benchmark, self.shape, self.lengths, self.sides = benchmark, shape, lengths, sides
        self.rows = texts(lengths, benchmark.args.rows or _num_rows(shape, lengths))
        self.references: dict[int, np.ndarray] = {}
        self.peer: Result | None = None

    def run(self, *, with_libraries: bool, with_files: bool) -> None:
        mean = sum(map(len, self.rows)) / len(self.rows)
        title = f"{self.shape}, {self.lengths} texts: {len(self.rows):,} rows of {mean:.0f} tokens on average"
        self.benchmark.report.table(title)
        for name in self.sides.makers:
            self._guarded(name, self._own)
        if with_files:
            self._guarded("files", self._files)
        for name in LIBRARIES if with_libraries else ():
            self._guarded(name, self._library)
        for name in self.sides.last if with_files else ():
            self._guarded(name, self._own)
        pairs = [*RATIOS, ("files", JOB_SIDE[self.benchmark.kind]), ("files", SUSTAINED)]
        self.benchmark.report.ratios(self.shape, self.lengths, pairs)

    def _guarded(self, name: str, run: Callable[[str], None]) -> None:
        """Run a side; what it cannot do is said, and the others go on."""
        if not self.benchmark.wants(name) or self.benchmark.is_late(name):
            return
        try:
            run(name)
        except Exception as error:  # noqa: BLE001
            self.benchmark.report.say(f"Left out: {name}; {type(error).__name__}: {str(error).strip()[-300:]}")

    def _own(self, name: str) -> None:
        side, rows = self.sides.made(name), self._rows_of(name)
        side(rows if self.benchmark.kind == "cuda" else rows[:64])
        seconds = []
        for _ in range(self.benchmark.args.rounds):
            start = time.perf_counter()
            out = side(rows)
            seconds.append(time.perf_counter() - start)
        self._add(name, "ids", rows, min(seconds), np.stack(out))

    def _library(self, name: str) -> None:
        python, package = self.benchmark.pythons.get(name, sys.executable), LIBRARIES[name]
        if subprocess.run([python, "-c", f"import {package}"], capture_output=True).returncode:
            raise RuntimeError(f"{package} is not installed in {python}; name another with --python {name}=PATH")
        rows, args = self._rows_of(name), self.benchmark.args
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "texts.npy", np.array([as_text(row) for row in rows]))
            command = [python, str(HERE / "encoder_peer.py"), name, str(self.sides.folder), f"{folder}/texts.npy"]
            options = [f"{folder}/out.npy", "--device", args.device, "--rounds", str(args.rounds)]
            done = subprocess.run([*command, *options], capture_output=True, text=True, env=_peer_environment(args))
            if done.returncode:
                raise RuntimeError(done.stderr)
            seconds = json.loads(done.stdout.splitlines()[-1])["seconds"]
            self._add(name, "text", rows, seconds, np.load(f"{folder}/out.npy"))

    def _files(self, name: str) -> None:
        num_tokens = sum(map(len, self.rows))
        repeats = 1 if self.benchmark.kind == "cpu" else max(1, FILE_TOKENS // num_tokens)
        device = self.benchmark.args.device
        with tempfile.TemporaryDirectory() as folder:
            run = run_files(self.sides.folder, self.rows, Path(folder), device=device, repeats=repeats)
        self._add(name, "files", self.rows, run.seconds / repeats, run.scores)
        told = f"The engine was ready after {run.ready_s:.1f} s, the first job done after {run.first_s:.1f} s"
        told += f"; the one that counts {run.seconds:.1f} s, {repeats} times these rows"
        told += f", {shards_in_flight()} shards in flight; worker and engine kept {run.cores:.1f} cores busy."
        if self.benchmark.kind == "cuda":
            self._engine_alone(max(1, repeats // 3))
        self.benchmark.report.say("", told)

    def _engine_alone(self, repeats: int) -> None:
        """The job's engine over the rows several times: a card that has worked for long is slower."""
        name = JOB_SIDE["cuda"]
        side = self.sides.made(name)
        start = time.perf_counter()
        out = side(self.rows * repeats)
        seconds = time.perf_counter() - start
        self._add(SUSTAINED, "ids", self.rows, seconds / repeats, np.stack(out[: len(self.rows)]))

    def _rows_of(self, name: str) -> list[np.ndarray]:
        share = SHARES.get(name, 1) if self.benchmark.kind == "cuda" else 1
        return self.rows[: max(1, len(self.rows) // share)]

    def _add(self, name: str, source: str, rows: list[np.ndarray], seconds: float, out: np.ndarray) -> None:
        reference = self.references.setdefault(out.shape[1], out)
        shared = min(len(reference), len(out))
        difference = None if reference is out else float(np.abs(out[:shared] - reference[:shared]).max())
        mfu = flops(self.shape, rows) / seconds / self.benchmark.rate if self.benchmark.rate else None
        tokens = sum(map(len, rows))
        result = Result(self.shape, self.lengths, name, source, len(rows), tokens, seconds, mfu, difference)
        self.peer = self.peer or result
        self.benchmark.report.add(result, self.peer)


def _num_rows(shape: str, lengths: str) -> int:
    mean = float(np.mean([len(row) for row in texts(lengths, 512)]))
    return int(NUM_TOKENS[shape] / mean)


def _peer_environment(args: argparse.Namespace) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(args.threads), "TOKENIZERS_PARALLELISM": "true"}
