"""The whole product as a side: rows as text in Parquet, `parquetry run`, scores in Parquet."""

from __future__ import annotations

import json
import os
import signal
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
#: parts of a job, and rows that one should have; the rate is taken from the first one's end to the last one's
MAX_PARTS, MIN_ROWS = 24, 256
#: a job that works for less is told by the jitter of its parts
_MIN_SECONDS = 2.0
#: a job that takes longer is stopped
_MAX_SECONDS = 600.0


@dataclass(frozen=True)
class FileRun:
    """One job through files. Its rate leaves out the start, which a long job pays once."""

    #: from the start of the command to its end
    seconds: float
    #: from the end of the first parts to that of the last part, and tokens of the parts that ended in between
    working_seconds: float
    num_tokens: int
    #: (num_rows, num_labels) as the output files have them
    scores: np.ndarray

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.num_tokens / self.working_seconds

    @property
    def is_telling(self) -> bool:
        """Whether it worked long enough for a rate."""
        return self.working_seconds > _MIN_SECONDS


def run_files(model: Path, rows: list[np.ndarray], folder: Path, *, repeats: int = 1) -> FileRun:
    """Run a job of `rows`, `repeats` times over, with the model in `model`, which has the tokenizer of their texts."""
    texts = pa.chunked_array([pa.array([as_text(row) for row in rows])] * repeats)
    pq.write_table(pa.table({"text": texts}), folder / "rows.parquet", row_group_size=8192)
    rows_per_part = -(-len(texts) // min(MAX_PARTS, max(3, len(texts) // MIN_ROWS)))
    seconds = _timed_run(model, folder, rows_per_part)
    table = pq.read_table(folder / "whole", columns=["scores", "error"])
    assert table["error"].null_count == len(texts), table["error"].drop_null()[0]
    scores = np.array(table["scores"][: len(rows)].to_pylist(), np.float32)
    lens = np.tile([len(row) for row in rows], repeats)
    return FileRun(seconds, *_steady(folder / "whole", lens, rows_per_part), scores)


def _steady(folder: Path, lens: np.ndarray, rows_per_part: int) -> tuple[float, int]:
    """Seconds, and tokens, from the first end of a part to the last."""
    ended = sorted(
        (part.stat().st_mtime_ns, int(part.stem.rpartition("-")[2])) for part in folder.glob("part-*.parquet")
    )
    tokens = [int(lens[part * rows_per_part : (part + 1) * rows_per_part].sum()) for _, part in ended[1:]]
    return max((ended[-1][0] - ended[0][0]) / 1e9, 1e-9), sum(tokens)


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
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "w0", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def shards_in_flight() -> int:
    """Runners that feed the engine: more than the default two where there are cores for them."""
    return 4 if len(os.sched_getaffinity(0)) >= 8 else 2


def _timed_run(model: Path, folder: Path, rows_per_part: int) -> float:
    spec = {
        "task": "classify",
        "input": {"path": "rows.parquet"},
        "output": {"path": "whole", "keep": []},
        "model": {"id": str(model)},
        "classify": {"all_scores": True},
        "shards": {"rows": rows_per_part},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(spec))
    environment = {**os.environ, "PARQUETRY_STATE_DIR": str(folder / "state")}
    environment.setdefault("PARQUETRY_SHARDS_IN_FLIGHT", str(shards_in_flight()))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "parquetry", "run", "job.yaml", "--json"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=environment, **pipes) as running:
        try:
            _, told = running.communicate(timeout=_MAX_SECONDS)
        except subprocess.TimeoutExpired:
            # asked to, the command takes its workers down with it
            running.send_signal(signal.SIGINT)
            _, told = running.communicate()
    if running.returncode != 0:
        raise RuntimeError(told.strip()[-400:])
    return time.perf_counter() - start
