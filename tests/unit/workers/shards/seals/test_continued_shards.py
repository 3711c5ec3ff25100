"""A shard over several attempts, each killed or stopped somewhere: the part is that of one attempt, to the byte."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from parquetry.schemas.errors import EngineLostError, JobStoppedError, LeaseLostError
from parquetry.schemas.location import Location
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.settings import load_settings
from parquetry.schemas.storage.local import LocalStorage
from parquetry.workers.engine import Engine
from parquetry.workers.request import Completion, EncodeRequest, Encoding
from parquetry.workers.shards import pipeline, reader, stages
from parquetry.workers.shards.pipeline import run_shard
from parquetry.workers.shards.seals.seal_folder import SealFolder
from tests.unit.workers.workers_records import DirectClient, make_record, write_table

ROWS, FIRST = 200, 50
BAD_ROWS = (FIRST + 7, FIRST + 120)


class KilledError(BaseException):
    """Nothing is done about it, as when a process is killed."""


ENDS = {
    "kill": KilledError,
    "pause": partial(JobStoppedError, job="j", state=JobState.PAUSED),
    "cancel": partial(JobStoppedError, job="j", state=JobState.CANCELLED),
    "lost": partial(LeaseLostError, shard=0),
    "engine": partial(EngineLostError, reason="it died"),
}


class NotingEngine(Engine):
    """Echoes some rows a step, in an order of its own, and notes them; refuses `BAD_ROWS`."""

    def __init__(self, seed: int = 0) -> None:
        self.rows: list[int] = []
        self._waiting: list = []
        self._draw = np.random.default_rng(seed)

    def add(self, requests):
        self._waiting += requests

    def step(self):
        self._draw.shuffle(self._waiting)
        batch, self._waiting = self._waiting[:5], self._waiting[5:]
        return [self._answer(request) for request in batch]

    def _answer(self, request):
        if isinstance(request, EncodeRequest):
            self.rows.append(request.id)
            return Encoding(id=request.id, values=np.arange(3, dtype=np.float32) / (1 + request.token_ids.sum()))
        self.rows.append(request.row)
        if request.row in BAD_ROWS:
            return Completion(id=request.id, output_ids=np.empty(0, np.int32), finish_reason="error", error="refused")
        ids = np.roll(request.prompt_ids, request.sample).astype(np.int32)
        return Completion(id=request.id, output_ids=ids, finish_reason="stop", logprobs=-ids.astype(np.float32))

    def cancel(self, ids):
        self._waiting = [request for request in self._waiting if request.id not in set(ids)]

    @property
    def num_unfinished(self):
        return len(self._waiting)

    def describe(self):
        return {"backend": "noting", "embedding_dim": "3", "num_labels": "3"}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small batches, and a look at the clock in every turn; a seal is always due."""
    monkeypatch.setattr(reader, "BATCH_ROWS", 16)
    monkeypatch.setattr(pipeline, "_REPORT_EVERY_S", 0.0)
    monkeypatch.setattr(pipeline, "MAX_IN_FLIGHT_ROWS", 64)
    config = load_settings(seal_seconds=1e-9)
    monkeypatch.setattr(stages, "settings", lambda: config)


def table(folder: Path) -> Path:
    texts = [f"row {i}" + " fox" * (i * 7919 % 9) for i in range(FIRST + ROWS)]
    texts[FIRST + 30] = None
    texts[FIRST + 31] = "x" * 100_000
    return write_table(folder / "in.parquet", {"id": range(FIRST + ROWS), "text": texts})


@pytest.fixture
def generate(tmp_path, causal_lm):
    return record_of(table(tmp_path), causal_lm, generation={"max_new_tokens": 16, "logprobs": True})


def record_of(source: Path, model: Path, **spec):
    base = {"model": {"id": str(model)}, "prompt": {"template": "{{ text }}", "chat": False}}
    found = make_record([source], **base | spec)
    plan = found.shard_plan.model_copy(update={"bounds": (0, FIRST, FIRST + ROWS)})
    return found.model_copy(update={"shard_plan": plan})


class Attempts:
    """Attempts at the second shard of a job, in one output folder."""

    def __init__(self, record, folder: Path) -> None:
        self.record, self.folder = record, folder
        self.shard = record.shard_plan.shard(1)
        self.storage = LocalStorage(Location.parse(str(folder / "out")))
        self.seen: list = []

    def run(self, engine: Engine, *, turns: int = 10**9, end: str = "kill", **options) -> bytes | None:
        """The part; None when it ended after so many turns."""
        left = iter(range(turns))

        def on_progress(progress) -> None:
            self.seen.append(progress)
            if next(left, None) is None:
                raise ENDS[end]()

        attempt = self.folder / "attempt.parquet"
        seals = SealFolder(self.storage, self.shard, 3)
        try:
            run_shard(
                self.record,
                self.shard,
                fence=3,
                attempt=attempt,
                engine=DirectClient(engine),
                on_progress=on_progress,
                seals=seals,
                **options,
            )
        except (KilledError, JobStoppedError, LeaseLostError, EngineLostError):
            return None
        return attempt.read_bytes()

    def sealed(self) -> int:
        return len(self.storage.list("_attempts/sealed/"))


def whole_part(record, folder: Path) -> bytes:
    """What one undisturbed attempt writes."""
    attempt = folder / "whole.parquet"
    run_shard(record, record.shard_plan.shard(1), fence=3, attempt=attempt, engine=DirectClient(NotingEngine(99)))
    return attempt.read_bytes()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ends=strategies.lists(
        strategies.tuples(strategies.integers(0, 45), strategies.sampled_from(sorted(ENDS))), max_size=5
    ),
    n=strategies.sampled_from([1, 3]),
)
def test_any_split_over_attempts_gives_the_part_of_one(generate, ends, n):
    generation = generate.spec.generation.model_copy(update={"n": n, "temperature": 1.0})
    record = generate.model_copy(update={"spec": generate.spec.model_copy(update={"generation": generation})})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        attempts = Attempts(record, folder)
        for seed, (turns, end) in enumerate(ends):
            attempts.run(NotingEngine(seed), turns=turns, end=end)
        assert attempts.run(NotingEngine(50)) == whole_part(record, folder)


@pytest.mark.parametrize("end", ["pause", "engine"])
def test_what_was_finished_is_never_computed_again(generate, tmp_path, end):
    """An attempt that is told to stop seals what it has; only refused rows, and those under way, are tried again."""
    attempts, first, second = Attempts(generate, tmp_path), NotingEngine(1), NotingEngine(2)
    assert attempts.run(first, turns=25, end=end) is None
    part = attempts.run(second)
    assert len(first.rows) > 50
    assert set(first.rows) & set(second.rows) <= set(BAD_ROWS)
    assert part == whole_part(generate, tmp_path)
    assert attempts.seen[-1].reused_rows == len(set(first.rows) - set(BAD_ROWS))
    assert attempts.seen[-1].rows == ROWS


@pytest.mark.parametrize("end", ["cancel", "lost"])
def test_who_was_cancelled_or_has_lost_the_shard_seals_no_more(generate, tmp_path, end, monkeypatch):
    config = load_settings(seal_seconds=1000.0)
    monkeypatch.setattr(stages, "settings", lambda: config)
    attempts = Attempts(generate, tmp_path)
    assert attempts.run(NotingEngine(), turns=25, end=end) is None
    assert attempts.sealed() == 0


def test_sealing_can_be_turned_off(generate, tmp_path, monkeypatch):
    attempts = Attempts(generate, tmp_path)
    attempts.run(NotingEngine(), turns=25)
    config = load_settings(seal_seconds=0.0)
    monkeypatch.setattr(stages, "settings", lambda: config)
    engine, before = NotingEngine(), attempts.sealed()
    attempts.run(engine)
    assert before > 0
    assert (len(set(engine.rows)), attempts.sealed()) == (ROWS - 2, before)


def test_another_spec_reuses_nothing(generate, tmp_path):
    Attempts(generate, tmp_path).run(NotingEngine(), turns=25)
    generation = generate.spec.generation.model_copy(update={"temperature": 0.5})
    other = generate.model_copy(update={"spec": generate.spec.model_copy(update={"generation": generation})})
    engine = NotingEngine()
    Attempts(other, tmp_path).run(engine)
    assert len(set(engine.rows)) == ROWS - 2


def test_another_engine_reuses_nothing(generate, tmp_path, monkeypatch):
    Attempts(generate, tmp_path).run(NotingEngine(), turns=25)
    monkeypatch.setattr(NotingEngine, "describe", lambda self: {"backend": "noting", "attention": "other"})
    engine = NotingEngine()
    Attempts(generate, tmp_path).run(engine)
    assert len(set(engine.rows)) == ROWS - 2


def test_withheld_rows_are_computed_again(generate, tmp_path):
    attempts, engine = Attempts(generate, tmp_path), NotingEngine(2)
    attempts.run(NotingEngine(1), turns=30, end="pause")
    assert attempts.run(engine, num_withheld=4) == whole_part(generate, tmp_path)
    assert attempts.seen[-1].rows == ROWS
    assert len(set(engine.rows)) == ROWS - 2 - attempts.seen[-1].reused_rows


@pytest.mark.parametrize(
    ("task", "spec"), [("embed", {}), ("classify", {"classify": {"top_k": 2, "all_scores": True}})]
)
def test_vectors_and_labels_are_reused(tmp_path, embedder, classifier, task, spec):
    folder = embedder if task == "embed" else classifier
    record = record_of(table(tmp_path), folder, task=task, prompt={}, **spec)
    attempts, first, second = Attempts(record, tmp_path), NotingEngine(1), NotingEngine(2)
    assert attempts.run(first, turns=25, end="pause") is None
    assert attempts.run(second) == whole_part(record, tmp_path)
    assert len(first.rows) > 50
    errors = pq.read_table(tmp_path / "whole.parquet")["error"]
    assert len(first.rows) + len(second.rows) == errors.null_count


def test_requests_are_reused_with_as_many_answers_as_each_asks_for(tmp_path, causal_lm):
    """And each with the stop strings of its own line, which no seal holds."""
    lines = []
    for number in range(FIRST + ROWS):
        keys = {"n": 1 + number % 3, "temperature": 1, "stop": "ow" if number % 2 else "fox"}
        body = {"model": "m", "messages": [{"role": "user", "content": f"row {number}"}], **keys}
        lines.append({"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body})
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)))
    given = {"format": "openai-batch", "models": ["m"]}
    generation = {"n": 3, "temperature": 1.0, "max_new_tokens": 16}
    record = record_of(source, causal_lm, prompt={}, input=given, generation=generation)
    attempts, first, second = Attempts(record, tmp_path), NotingEngine(1), NotingEngine(2)
    assert attempts.run(first, turns=25, end="pause") is None
    assert attempts.run(second) == whole_part(record, tmp_path)
    assert attempts.seen[-1].reused_rows > 10
    outputs = pq.read_table(tmp_path / "whole.parquet")["output"].to_pylist()
    asked = [1 + (FIRST + at) % 3 for at in range(ROWS)]
    # a row that the engine refused has none
    assert all(found is None or len(found) == n for found, n in zip(outputs, asked, strict=True))
    assert sum(found is None for found in outputs) == len(BAD_ROWS)
