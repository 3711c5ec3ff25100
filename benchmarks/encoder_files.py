"""The whole product as a side: rows as text in Parquet, `parquetry run`, scores in Parquet."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

ROOT = Path(__file__).resolve().parent.parent
CLS, SEP = 101, 102
#: a job that works for less is told by the jitter of its start
_MIN_SECONDS = 4.0


@dataclass(frozen=True)
class FileRun:
    """One job through files. Its rate is taken after the start, which a long job pays once."""

    #: from the start of the command to its end
    seconds: float
    #: the same for one row
    start_seconds: float
    #: (num_rows, num_labels) as the output files have them
    scores: np.ndarray

    @property
    def working_seconds(self) -> float:
        return self.seconds - self.start_seconds

    @property
    def is_telling(self) -> bool:
        """Whether it worked long enough for a rate."""
        return self.working_seconds > _MIN_SECONDS


def run_files(model: Path, rows: list[np.ndarray], folder: Path) -> FileRun:
    """Run a job of `rows` with the model in `model`, which gets a tokenizer that gives their token ids."""
    write_tokenizer(model)
    pq.write_table(pa.table({"text": [as_text(row) for row in rows]}), folder / "rows.parquet")
    start_seconds = _timed_run(model, folder, "start", 1)
    seconds = _timed_run(model, folder, "whole", len(rows))
    table = pq.read_table(folder / "whole", columns=["scores", "error"])
    assert table["error"].null_count == len(rows), table["error"].drop_null()[0]
    return FileRun(seconds, start_seconds, np.array(table["scores"].to_pylist(), np.float32))


def as_text(row: np.ndarray) -> str:
    """The words of a row of token ids, without its first and last, which the tokenizer adds."""
    return " ".join(f"w{token}" for token in row[1:-1])


def write_tokenizer(folder: Path, vocab_size: int = 30522) -> None:
    """BERT's own pipeline over a vocabulary of numbered words: word `w7` is token 7."""
    vocab = {f"w{number}": number for number in range(vocab_size)}
    vocab |= {"[CLS]": CLS, "[SEP]": SEP}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[CLS]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    tokenizer.save(str(folder / "tokenizer.json"))


def _timed_run(model: Path, folder: Path, name: str, num_rows: int) -> float:
    spec = {
        "task": "classify",
        "input": {"path": "rows.parquet", "limit": num_rows},
        "output": {"path": name, "keep": []},
        "model": {"id": str(model)},
        "classify": {"all_scores": True},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PARQUETRY_STATE_DIR": str(folder / "state")}
    command = [sys.executable, "-m", "parquetry", "run", f"{name}.yaml", "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return time.perf_counter() - start
