"""The whole product as a side: rows as text in Parquet, a job through queue and worker, scores in Parquet."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fleet import fleet
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

CLS, SEP = 101, 102
#: parts of a job, and rows that one should have
MAX_PARTS, MIN_ROWS = 48, 256
#: rows of the job before, for which the worker loads the model
_FIRST_ROWS = 64


@dataclass(frozen=True)
class FileRun:
    """A job through files, on a worker that has loaded its model for the job before."""

    #: from the start of the engine's process until it could serve
    ready_s: float
    #: from submit to done: of the job before, and of this one
    first_s: float
    seconds: float
    #: CPU cores that the worker and its engine kept busy in this one
    cores: float
    #: (num_rows, num_labels) as the output files have them
    scores: np.ndarray


def run_files(model: Path, rows: list[np.ndarray], folder: Path, *, device: str, repeats: int = 1) -> FileRun:
    """Run a job of `rows`, `repeats` times over, with the model in `model`, which has the tokenizer of their texts."""
    texts = pa.chunked_array([pa.array([as_text(row) for row in rows])] * repeats)
    pq.write_table(pa.table({"text": texts}), folder / "rows.parquet", row_group_size=8192)
    rows_per_part = -(-len(texts) // min(MAX_PARTS, max(3, len(texts) // MIN_ROWS)))
    in_flight = {"PARQUETRY_SHARDS_IN_FLIGHT": str(shards_in_flight())}
    gpus = "none" if device == "cpu" else device.partition(":")[2] or "0"
    with fleet(folder, gpus=gpus, settings=in_flight) as one:
        first_s = one.seconds(_spec(model, folder, "first", rows_per_part, limit=_FIRST_ROWS))
        cpu_s = one.cpu_seconds()
        seconds = one.seconds(_spec(model, folder, "whole", rows_per_part))
        cpu_s, ready_s = one.cpu_seconds() - cpu_s, one.ready_seconds()
    table = pq.read_table(folder / "whole", columns=["scores", "error"])
    assert table["error"].null_count == len(texts), table["error"].drop_null()[0]
    scores = np.array(table["scores"][: len(rows)].to_pylist(), np.float32)
    return FileRun(ready_s, first_s, seconds, cpu_s / seconds, scores)


def _spec(model: Path, folder: Path, name: str, rows_per_part: int, limit: int | None = None) -> dict[str, Any]:
    return {
        "task": "classify",
        "input": {"path": str(folder / "rows.parquet"), "limit": limit},
        "output": {"path": str(folder / name), "keep": []},
        "model": {"id": str(model)},
        "classify": {"all_scores": True},
        "shards": {"rows": rows_per_part},
    }


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
    """Runners that feed the engine: as the environment says, else more than the default two where cores allow it."""
    said = os.environ.get("PARQUETRY_SHARDS_IN_FLIGHT")
    return int(said) if said else max(2, min(6, len(os.sched_getaffinity(0)) // 2 - 2))
