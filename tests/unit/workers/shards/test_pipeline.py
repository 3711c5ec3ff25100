"""One shard through the whole pipeline, on an engine that needs no model or a tiny one."""

from __future__ import annotations

import threading
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquetry.schemas.errors import InvalidValueError, ShardFailedError
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine import Engine
from parquetry.workers.preparation.prompts import PromptPreparation
from parquetry.workers.request import Completion, EncodeRequest, Encoding
from parquetry.workers.shards import pipeline, reader
from parquetry.workers.shards.pipeline import run_shard
from parquetry.workers.shards.provenance import ENGINE_KEYS, provenance
from tests.unit.workers.workers_records import DirectClient, make_record, write_table


class EchoEngine(Engine):
    """Answers prompts with themselves, a few at a time, newest first."""

    def __init__(self, *, error_rows: tuple[int, ...] = (), rows_per_step: int = 7) -> None:
        self.requests: list = []
        self.most_waiting = 0
        self._error_rows = error_rows
        self._rows_per_step = rows_per_step

    def add(self, requests):
        self.requests += requests
        self.most_waiting = max(self.most_waiting, len(self.requests))

    def step(self):
        batch, self.requests = self.requests[-self._rows_per_step :], self.requests[: -self._rows_per_step]
        return [self._answer(request) for request in reversed(batch)]

    def _answer(self, request):
        if isinstance(request, EncodeRequest):
            return Encoding(id=request.id, values=np.arange(3, dtype=np.float32) + len(request.token_ids))
        if request.row in self._error_rows and request.sample == 0:
            return Completion(id=request.id, output_ids=np.empty(0, np.int32), finish_reason="error", error="refused")
        logprobs = -np.ones(len(request.prompt_ids), np.float32)
        return Completion(id=request.id, output_ids=request.prompt_ids, finish_reason="stop", logprobs=logprobs)

    def cancel(self, ids):
        self.requests = [request for request in self.requests if request.id not in set(ids)]

    @property
    def num_unfinished(self):
        return len(self.requests)

    def describe(self):
        return {"backend": "echo", "attention": "none", "embedding_dim": "3", "num_labels": "3"}


def run(record, attempt: Path, *, engine: Engine | None = None, index: int = 0, **options):
    client = DirectClient(engine or EchoEngine())
    summary = run_shard(record, record.shard_plan.shard(index), fence=3, attempt=attempt, engine=client, **options)
    return summary, pq.read_table(attempt)


@pytest.fixture
def attempt(tmp_path) -> Path:
    return tmp_path / "attempt.parquet"


#: of the tiny causal model
CONTEXT_WINDOW = 256
ODD_TEXTS = ["plain", "", None, "😀 é", "nul \x00 byte", "x" * 100_000, "last"]


@pytest.fixture
def odd(tmp_path, causal_lm):
    """Every odd text there is, and one that is not UTF-8."""
    texts = pa.array([*(None if t is None else t.encode() for t in ODD_TEXTS), b"\xff\xfe"], pa.binary())
    table = pa.table({"id": range(8), "text": texts.view(pa.string())})
    source = write_table(tmp_path / "in.parquet", table)
    return make_record(
        [source],
        model={"id": str(causal_lm)},
        prompt={"template": "{{ text }}", "chat": False},
        generation={"max_new_tokens": 16},
    )


def test_odd_rows_are_answered_or_explained(odd, attempt):
    summary, table = run(odd, attempt)

    errors = table["error"].to_pylist()
    assert [error is None for error in errors] == [True, False, False, True, True, False, True, False]
    assert "tokenizer makes no token" in errors[1]
    assert errors[2] == "text is null"
    assert "100000 tokens" in errors[5]
    assert errors[7] == "text is not valid UTF-8"
    assert table["output"].to_pylist() == ["plain", None, None, "😀 é", "nul \x00 byte", None, "last", None]
    assert table["finish_reason"].to_pylist() == [("stop", "error")[error is not None] for error in errors]
    assert (summary.rows, summary.error_rows) == (8, 4)
    assert table["row"].to_pylist() == list(range(8))


def test_truncation_answers_the_long_row(odd, attempt):
    prompt = odd.spec.prompt.model_copy(update={"truncate": "right"})
    record = odd.model_copy(update={"spec": odd.spec.model_copy(update={"prompt": prompt})})

    _, table = run(record, attempt)

    assert table["error"][5].as_py() is None
    assert table["prompt_tokens"][5].as_py() == CONTEXT_WINDOW - 16


@pytest.fixture
def many(tmp_path, causal_lm):
    """Three shards of 3000 rows, of random lengths."""
    texts = [f"row {i}" + " fox" * (i * 7919 % 30) for i in range(9000)]
    source = write_table(tmp_path / "in.parquet", {"id": range(9000), "text": texts}, row_group_size=700)
    return make_record(
        [source],
        rows_per_shard=3000,
        model={"id": str(causal_lm)},
        prompt={"template": "{{ text }}", "chat": False},
        generation={"max_new_tokens": 16},
    )


def test_order_is_kept_whatever_order_the_engine_answers_in(many, attempt):
    summary, table = run(many, attempt, index=1)

    assert table["row"].to_pylist() == list(range(3000, 6000))
    assert table["id"].to_pylist() == list(range(3000, 6000))
    assert table["output"].to_pylist() == table["text"].to_pylist()
    assert (summary.rows, summary.error_rows) == (3000, 0)
    assert summary.prompt_tokens == summary.output_tokens == sum(table["prompt_tokens"].to_pylist())
    assert summary.size == attempt.stat().st_size


def test_answers_are_taken_while_rows_are_prepared(many, attempt, monkeypatch):
    has_answers, number = threading.Event(), count()

    def slow(self, prepared):
        # the first batch's answers come before the second batch is ready, or never
        assert next(number) == 0 or has_answers.wait(20)
        return prepared

    def note(progress):
        if progress.rows:
            has_answers.set()

    monkeypatch.setattr(PromptPreparation, "complete", slow)
    summary, _ = run(many, attempt, on_progress=note)

    assert summary.rows == 3000


def test_memory_is_bounded_by_what_may_be_in_flight(many, attempt, monkeypatch):
    monkeypatch.setattr(reader, "BATCH_ROWS", 256)
    monkeypatch.setattr(pipeline, "MAX_IN_FLIGHT_ROWS", 600)
    engine = EchoEngine(rows_per_step=1)

    run(many, attempt, engine=engine)

    assert engine.most_waiting < 600 + reader.BATCH_ROWS


def test_the_in_flight_tokens_are_bounded_too(many, attempt, monkeypatch):
    monkeypatch.setattr(pipeline, "MAX_IN_FLIGHT_TOKENS", 100)
    engine = EchoEngine()

    run(many, attempt, engine=engine)

    assert engine.most_waiting <= reader.BATCH_ROWS


def test_the_in_flight_bytes_are_bounded_too(many, attempt, monkeypatch):
    monkeypatch.setattr(pipeline, "MAX_IN_FLIGHT_BYTES", 1)
    engine = EchoEngine()

    run(many, attempt, engine=engine)

    assert engine.most_waiting <= reader.BATCH_ROWS


def test_attempts_differ_in_their_fence_only(many, tmp_path):
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, rows in zip(paths, (7, 50), strict=True):
        run(many, path, engine=EchoEngine(rows_per_step=rows))

    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_samples_become_lists(many, attempt):
    generation = many.spec.generation.model_copy(update={"n": 3, "temperature": 1.0, "logprobs": True})
    record = many.model_copy(update={"spec": many.spec.model_copy(update={"generation": generation})})

    summary, table = run(record, attempt, engine=EchoEngine(error_rows=(5,)))

    assert table["output"][0].as_py() == [table["text"][0].as_py()] * 3
    assert table["finish_reason"][0].as_py() == ["stop"] * 3
    assert len(table["logprobs"][0].as_py()[2]) == table["output_tokens"][0].as_py()[2]
    assert (table["output"][5].as_py(), table["error"][5].as_py()) == (None, "refused")
    assert table["finish_reason"][5].as_py() == ["error"] * 3
    assert summary.error_rows == 1


def test_stop_strings_are_cut_off(many, attempt):
    generation = many.spec.generation.model_copy(update={"stop": [" fox", "w 1"]})
    record = many.model_copy(update={"spec": many.spec.model_copy(update={"generation": generation})})

    _, table = run(record, attempt)

    assert table["output"].to_pylist()[:12] == [
        "ro" if text.startswith("row 1") else text.partition(" fox")[0] for text in table["text"].to_pylist()[:12]
    ]


def test_provenance_is_in_the_schema(many, attempt):
    run(many, attempt, index=2)

    keys = {key.decode(): value.decode() for key, value in pq.read_schema(attempt).metadata.items()}
    assert keys["parquetry.job"] == many.job
    assert (keys["parquetry.shard"], keys["parquetry.fence"]) == ("2", "3")
    assert (keys["parquetry.backend"], keys["parquetry.quantization"]) == ("echo", "none")
    assert '"rows":[6000,9000]' in keys["parquetry.input"]
    assert len(keys["parquetry.weights"]) == 64


def test_what_an_engine_had_to_do_without_is_in_the_schema(many):
    said = {key: f"what is said of {key}" for key in ENGINE_KEYS}
    checkpoint = Checkpoint.resolve(many.spec.model)

    found = provenance(many, many.shard_plan.shard(0), 1, checkpoint, said)

    assert {key: found[key] for key in ENGINE_KEYS} == said
    assert {"runs_without", "why_not_packed", "equal_lengths_only", "one_row_at_a_time", "why_dtype"} <= found.keys()


def test_on_row_error_fail_names_the_row(odd, attempt):
    record = odd.model_copy(update={"spec": odd.spec.model_copy(update={"on_row_error": "fail"})})

    with pytest.raises(ShardFailedError, match="row 1: the text is empty"):
        run(record, attempt)


def test_on_row_error_fail_holds_for_the_engine_too(many, attempt):
    record = many.model_copy(update={"spec": many.spec.model_copy(update={"on_row_error": "fail"})})

    with pytest.raises(ShardFailedError, match="row 70: refused"):
        run(record, attempt, engine=EchoEngine(error_rows=(70,)))


def test_stopping_cancels_what_is_unfinished_and_leaves_no_part(many, attempt):
    class StopError(Exception):
        pass

    def stop(progress):
        raise StopError

    engine = EchoEngine()
    client = DirectClient(engine)
    with pytest.raises(StopError):
        run_shard(many, many.shard_plan.shard(0), fence=1, attempt=attempt, engine=client, on_progress=stop)

    assert engine.num_unfinished == 0
    with pytest.raises(pa.ArrowInvalid):
        pq.ParquetFile(attempt)


def test_progress_ends_at_the_summary(many, attempt):
    seen = []

    summary, _ = run(many, attempt, on_progress=seen.append)

    assert seen[-1].rows == summary.rows
    assert [progress.rows for progress in seen] == sorted(progress.rows for progress in seen)


def test_chat_models_get_their_format(many, attempt):
    prompt = {"template": "{{ text }}", "system": "be kind"}
    spec = type(many.spec).parse({**many.spec.model_dump(), "prompt": prompt})

    _, table = run(many.model_copy(update={"spec": spec}), attempt)

    # special tokens are not decoded
    assert table["output"][0].as_py() == "system\nbe kind\nuser\nrow 0\nassistant\n"


def test_messages_columns(tmp_path, attempt, causal_lm):
    good = [{"role": "user", "content": "hi"}]
    source = write_table(tmp_path / "in.parquet", {"m": [good, [], None]})
    record = make_record(
        [source], model={"id": str(causal_lm)}, prompt={"messages": "m"}, generation={"max_new_tokens": 8}
    )

    _, table = run(record, attempt)

    assert table["output"].to_pylist() == ["user\nhi\nassistant\n", None, None]
    assert table["error"].to_pylist() == [None, "m is not a list with at least one message", "m is null"]
    assert table["m"].to_pylist() == [good, [], None]


def encode_record(tmp_path, folder, **spec):
    texts = {"id": range(5), "text": ["good", "", None, "a table of rows", "😀"], "other": ["bad"] * 4 + [None]}
    return make_record([write_table(tmp_path / "in.parquet", texts)], model={"id": str(folder)}, **spec)


def test_embeddings(tmp_path, attempt, embedder):
    record = encode_record(tmp_path, embedder, task="embed", output={"path": "out", "keep": ["id"]})

    summary, table = run(record, attempt)

    assert table.schema.field("embedding").type == pa.list_(pa.float16(), 3)
    assert table.schema.names == ["id", "row", "embedding", "error"]
    assert table["embedding"].to_pylist() == [[3, 4, 5], [2, 3, 4], None, [6, 7, 8], [3, 4, 5]]
    assert (summary.error_rows, summary.output_tokens) == (1, 0)


def test_classification_takes_the_best_labels(tmp_path, attempt, classifier):
    classify = {"top_k": 2, "all_scores": True}

    _, table = run(encode_record(tmp_path, classifier, task="classify", classify=classify), attempt)

    assert table["label"][0].as_py() == ["positive", "neutral"]
    assert table["score"][0].as_py() == [5, 4]
    assert table["scores"][0].as_py() == [3, 4, 5]
    assert table["label"][2].as_py() is None


def test_classification_with_names_of_the_spec(tmp_path, attempt, classifier):
    _, table = run(encode_record(tmp_path, classifier, task="classify", classify={"labels": ["a", "b", "c"]}), attempt)
    assert table["label"].to_pylist() == ["c", "c", None, "c", "c"]

    with pytest.raises(InvalidValueError, match="3 outputs"):
        run(encode_record(tmp_path, classifier, task="classify", classify={"labels": ["a"]}), attempt)


def test_pairs(tmp_path, attempt, scorer):
    record = encode_record(tmp_path, scorer, task="score", classify={"text": "text", "text_pair": "other"})

    _, table = run(record, attempt)

    assert table["error"].to_pylist() == [None, None, "text is null", None, "other is null"]
    assert table["score"][2].as_py() is None


def test_a_limit_beyond_the_window_is_refused(many, attempt):
    generation = many.spec.generation.model_copy(update={"max_new_tokens": 256})
    record = many.model_copy(update={"spec": many.spec.model_copy(update={"generation": generation})})

    with pytest.raises(InvalidValueError, match=r"max_new_tokens is 256.*window is 256"):
        run(record, attempt)


def test_the_same_job_on_another_batch_composition(tmp_path, many):
    """Sampled output of a real engine depends on neither shard size nor batch size."""
    from parquetry.workers.engine_spec import EngineSpec
    from parquetry.workers.hosting.engine_choice import load_engine

    generation = {"max_new_tokens": 6, "temperature": 1.0, "seed": 11}
    spec = {"model": {"id": many.model_path, "backend": "transformers"}, "generation": generation}
    files = [many.shard_plan.files[0].path]
    texts = pq.read_table(files[0]).slice(0, 60)
    source = write_table(tmp_path / "few.parquet", texts)
    outputs = []
    for rows, budget in ((60, 4096), (13, 200)):
        record = make_record([source], rows_per_shard=rows, **spec)
        engine = load_engine(EngineSpec.of(record).model_copy(update={"token_budget": budget}))
        parts = [
            run(record, tmp_path / f"{rows}-{i}", engine=engine, index=i)[1]
            for i in range(record.shard_plan.num_shards)
        ]
        outputs.append(pa.concat_tables(parts).select(["row", "output", "output_tokens"]).to_pylist())

    assert outputs[0] == outputs[1]
