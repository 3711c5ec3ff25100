"""Named entities: grouping by hand, every back end against transformers' own pipeline, and a job from file to file."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import pipeline

from parquetry.producers.validation import validate
from parquetry.schemas import settings as settings_module
from parquetry.schemas.errors import InvalidValueError, RowError, UnsupportedOptionError
from parquetry.schemas.spec.columns import ENTITIES
from parquetry.schemas.spec.job import JobSpec, ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.preparation.texts import TextPreparation
from parquetry.workers.preparation.tokenization import Spans, Tokenizer, Tokens
from parquetry.workers.request import EncodeRequest
from parquetry.workers.shards.answers_choice import choose_answers
from parquetry.workers.shards.entities import EntityGrouping
from parquetry.workers.shards.pending_rows import Outcome
from parquetry.workers.shards.pipeline import run_shard
from tests.unit.workers.workers_records import DirectClient, make_record, write_table

TEXTS = [
    "The quick brown fox jumps over the lazy dog",
    "good",
    "",
    "Ünïcode café 😀 fox, and a table of rows!",
    "a film " * 60,
]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tests.models import write_token_classifier

    return write_token_classifier(tmp_path_factory.mktemp("models") / "entities")


@pytest.fixture(scope="module")
def expected(folder):
    finder = pipeline("token-classification", model=str(folder), device="cpu", aggregation_strategy="simple")
    return [finder(text) if text else [] for text in TEXTS]


def spec_of(folder, **classify) -> JobSpec:
    return JobSpec.parse(
        {
            "task": "classify",
            "input": {"path": "in.parquet"},
            "output": {"path": "out"},
            "model": {"id": str(folder)},
            "classify": classify,
        }
    )


def found_entities(folder, texts, *, truncate="right", **model) -> tuple[list, list]:
    """What a shard would write of the texts, and the errors."""
    spec = spec_of(folder, truncate=truncate)
    checkpoint, tokenizer = Checkpoint.resolve(spec.model), Tokenizer.load(folder)
    prepared = TextPreparation(spec, checkpoint, tokenizer, datetime.now(UTC)).tokens(pa.record_batch({"text": texts}))
    engine = load_engine(EngineSpec(task="classify", model_path=str(folder), model=ModelSpec(id=str(folder), **model)))
    good = {number: tokens for number, tokens in enumerate(prepared) if not isinstance(tokens, RowError)}
    engine.add([EncodeRequest(id=number, token_ids=tokens.ids) for number, tokens in good.items()])
    results = {}
    while engine.num_unfinished:
        results |= {result.id: result for result in engine.step()}
    rows = [
        Outcome(error=str(tokens))
        if isinstance(tokens, RowError)
        else Outcome(results=[results[number]], tokens=tokens)
        for number, tokens in enumerate(prepared)
    ]
    answers = choose_answers(spec, checkpoint, tokenizer, engine.describe())
    assert answers.fields == [ENTITIES]
    column = answers.columns(rows)[0]
    assert column.type == ENTITIES.type
    return column.to_pylist(), [row.error for row in rows]


@pytest.mark.parametrize("backend", ["transformers", "packed", "onnxruntime"])
def test_entities_are_those_of_the_pipeline(backend, folder, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("PARQUETRY_STATE_DIR", str(tmp_path))
    settings_module.settings.cache_clear()
    rows, errors = found_entities(folder, TEXTS, backend=backend)
    settings_module.settings.cache_clear()
    assert errors == [None] * len(TEXTS)
    assert sum(map(len, expected)) > 10
    for found, wanted in zip(rows, expected, strict=True):
        assert [(e["label"], e["start"], e["end"], e["word"]) for e in found] == [
            (e["entity_group"], e["start"], e["end"], e["word"]) for e in wanted
        ]
        np.testing.assert_allclose([e["score"] for e in found], [e["score"] for e in wanted], atol=1e-4)


def without_accents(text: str) -> str:
    """As the tokenizer reads it."""
    return "".join(c for c in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(c))


def test_offsets_count_characters_of_the_text(folder):
    """Accents, which the tokenizer drops, and an emoji of four bytes stand before most of these."""
    rows, _ = found_entities(folder, [TEXTS[3]])
    spans = [TEXTS[3][entity["start"] : entity["end"]] for entity in rows[0]]
    words = [entity["word"].replace(" ##", "").removeprefix("##") for entity in rows[0]]
    assert [without_accents(span) for span in spans] == words
    assert "é" in "".join(spans) and "rows" in "".join(spans)


def test_a_text_beyond_the_window_may_be_an_error_row(folder):
    rows, errors = found_entities(folder, TEXTS, truncate="error")
    assert rows[-1] is None
    assert "at most 64" in errors[-1]
    assert errors[:-1] == [None] * 4


def test_a_shard_of_entities_makes_a_verified_part(folder, expected, tmp_path):
    source = write_table(tmp_path / "in.parquet", {"id": range(6), "text": [*TEXTS, None]})
    record = make_record([source], rows_per_shard=6, task="classify", model={"id": str(folder)}, output={"path": "out"})
    engine = load_engine(EngineSpec(task="classify", model_path=str(folder), model=record.spec.model))
    attempt = tmp_path / "attempt.parquet"
    summary = run_shard(record, record.shard_plan.shard(0), fence=1, attempt=attempt, engine=DirectClient(engine))
    assert (summary.rows, summary.error_rows) == (6, 1)
    table = pq.read_table(attempt)
    assert table.column_names == ["id", "text", "row", "entities", "error"]
    assert table["entities"][5].as_py() is None
    assert [len(row) for row in table["entities"].to_pylist()[:5]] == [len(row) for row in expected]


@pytest.mark.parametrize(
    ("task", "classify", "option"),
    [
        ("score", {"text_pair": "text"}, "task score"),
        ("classify", {"text_pair": "text"}, "classify.text_pair"),
        ("classify", {"top_k": 2}, "classify.top_k"),
        ("classify", {"all_scores": True}, "classify.all_scores"),
    ],
)
def test_options_of_texts_are_refused_at_submit(folder, tmp_path, task, classify, option):
    source = write_table(tmp_path / "in.parquet", {"text": ["x"]})
    spec = {"task": task, "input": {"path": str(source)}, "output": {"path": str(tmp_path / "out")}}
    with pytest.raises(UnsupportedOptionError, match=f"{option} with this model .* entities"):
        validate(JobSpec.parse({**spec, "model": {"id": str(folder)}, "classify": classify}))


@pytest.mark.parametrize(("column", "is_refused"), [("label", False), ("entities", True)])
def test_names_of_the_output_are_those_of_the_model(folder, tmp_path, column, is_refused):
    source = write_table(tmp_path / "in.parquet", {"text": ["x"], column: ["y"]})
    spec = {"task": "classify", "input": {"path": str(source)}, "output": {"path": str(tmp_path / "out")}}
    job = JobSpec.parse({**spec, "model": {"id": str(folder)}})
    if not is_refused:
        validate(job)
        return
    with pytest.raises(InvalidValueError, match="a column 'entities' of its own"):
        validate(job)


def test_labels_that_do_not_match_the_head_are_refused(folder, tmp_path):
    source = write_table(tmp_path / "in.parquet", {"text": ["x"]})
    spec = {"task": "classify", "input": {"path": str(source)}, "output": {"path": str(tmp_path / "out")}}
    job = JobSpec.parse({**spec, "model": {"id": str(folder)}, "classify": {"labels": ["O", "B-X"]}})
    with pytest.raises(InvalidValueError, match="2 names, but the model has 6"):
        validate(job)


WORDS = SimpleNamespace(word=lambda ids, texts={}: " ".join(texts.get(at, f"w{n}") for at, n in enumerate(ids)))


def tokens_of(num_words: int) -> Tokens:
    """One-letter words with a special token on either side."""
    offsets = [[0, 0], *([2 * at, 2 * at + 1] for at in range(num_words)), [0, 0]]
    special = np.array([True, *[False] * num_words, True])
    text = " ".join("abcdefgh"[:num_words])
    ids = np.arange(num_words + 2, dtype=np.int32)
    return Tokens(ids, spans=Spans(text, np.array(offsets, np.int32), special))


def grouped(labels, names, unknown=None):
    values = np.array([[9, 1.0], *([names.index(name), 0.5 + at / 10] for at, name in enumerate(labels)), [9, 1.0]])
    return EntityGrouping(names, WORDS, unknown).entities([tokens_of(len(labels))], [values])[0]


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        (["O", "O"], []),
        (["B-X", "I-X", "O"], [("X", 0, 3)]),
        (["B-X", "B-X"], [("X", 0, 1), ("X", 2, 3)]),
        (["I-X", "I-Y", "I-Y"], [("X", 0, 1), ("Y", 2, 5)]),
        (["B-X", "O", "I-X"], [("X", 0, 1), ("X", 4, 5)]),
        (["Z", "Z", "B-X"], [("Z", 0, 3), ("X", 4, 5)]),
    ],
)
def test_grouping_by_hand(labels, groups):
    found = grouped(labels, ["O", "B-X", "I-X", "B-Y", "I-Y", "Z"])
    assert [(entity["label"], entity["start"], entity["end"]) for entity in found] == groups


def test_the_score_is_the_mean_and_an_unknown_word_is_the_text():
    (entity,) = grouped(["B-X", "I-X"], ["O", "B-X", "I-X"], unknown=2)
    assert entity["score"] == pytest.approx(0.55)
    assert entity["word"] == "w1 b"
