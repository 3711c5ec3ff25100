"""Frames in, frames out, through a real queue and a real worker, which all calls here share."""

from __future__ import annotations

import _thread
import asyncio
import re
import subprocess
import sys
import threading
from pathlib import Path

import pandas
import polars
import pyarrow as pa
import pytest

import parquetry
from parquetry.api.stream import JobNotDoneError
from parquetry.frames.call import FrameNotDoneError
from parquetry.frames.frame import ColumnNameError
from parquetry.frames.new_columns import TakenColumnError
from parquetry.schemas.errors import InvalidValueError, MissingColumnError, ModelNotFoundError, UnknownKeyError
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.settings import settings
from tests.acceptance.commands import ROOT, wait_until

TEXTS = ["oak", None, "a block", "floor gap wood", "", "fit"]


@pytest.fixture(scope="module", autouse=True)
def state(tmp_path_factory):
    """A state folder of these tests' own; at the end nothing of ours runs any more."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARQUETRY_STATE_DIR", str(folder))
        patch.delenv("PARQUETRY_BROKER_URL", raising=False)
        settings.cache_clear()
        yield folder
        parquetry.close()
    settings.cache_clear()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    from tests.models import write_classifier

    return write_classifier(tmp_path_factory.mktemp("classifier"))


def frame(num_rows: int = 6) -> pandas.DataFrame:
    texts = [TEXTS[i % len(TEXTS)] for i in range(num_rows)]
    return pandas.DataFrame({"text": texts, "n": range(num_rows)}, index=[f"r{i}" for i in reversed(range(num_rows))])


def test_a_data_frame_comes_back_with_its_index_and_new_columns(state, generator):
    given = frame()
    found = parquetry.generate(given, prompt="Say: {{ text }} {{ n }}", model=str(generator), max_new_tokens=4)
    pandas.testing.assert_frame_equal(found[["text", "n"]], frame())
    pandas.testing.assert_frame_equal(given, frame())
    assert list(found.columns[2:]) == ["output", "finish_reason", "prompt_tokens", "output_tokens", "error"]
    assert found["error"].fillna("").tolist() == ["", "text is null", "", "", "", ""]
    assert found["output"].isna().tolist() == found["error"].notna().tolist()
    assert (found["output_tokens"].dropna() <= 4).all()
    assert list((state / "frames").iterdir()) == []
    assert parquetry.jobs() == []


def test_a_schema_makes_typed_columns(generator):
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["kind", "count"],
        "additionalProperties": False,
    }
    found = parquetry.generate(
        frame().head(2), prompt="{{ n }}", model=str(generator), json_schema=schema, max_new_tokens=60
    )
    assert found["error"].isna().all()
    assert set(found["kind"]) <= {"a", "b"} and found["count"].dtype == "Int64"


SCRIPT = """
import sys, pandas, parquetry
frame = pandas.DataFrame({"text": [f"oak {i}" for i in range(400)]})
parquetry.generate(frame, prompt="Say: {{ text }}", model=sys.argv[1], keep="kept", max_new_tokens=24,
    options={"shards.rows": 10})
"""


def parts(folder: Path) -> dict[Path, int]:
    """The committed parts below a folder, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/out/part-*.parquet")}


def test_a_killed_kernel_loses_nothing(shell, generator):
    arguments = shell.arguments([sys.executable, "-c", SCRIPT, str(generator)])
    with subprocess.Popen(**arguments) as kernel:
        wait_until(lambda: len(parts(shell.folder / "kept")) > 1 or kernel.poll() is not None, "two parts")
        kernel.kill()
    wait_until(lambda: not shell.processes(), "the death of everything it started")
    kept = parts(shell.folder / "kept")
    assert 1 < len(kept) < 40
    given = pandas.DataFrame({"text": [f"oak {i}" for i in range(400)]})
    options = {"max_new_tokens": 24, "options": {"shards.rows": 10}}
    found = parquetry.generate(
        given, prompt="Say: {{ text }}", model=str(generator), keep=shell.folder / "kept", **options
    )
    after = parts(shell.folder / "kept")
    assert len(after) == 40 and {path: after[path] for path in kept} == kept
    assert found["error"].isna().all() and found["text"].equals(given["text"])


def test_an_interrupted_cell_pauses_the_job_and_the_same_cell_goes_on(tmp_path, generator):
    given = frame(400).assign(text="oak")

    def call():
        return parquetry.generate(
            given, prompt="{{ n }}", model=str(generator), max_new_tokens=24, keep=tmp_path, options={"shards.rows": 10}
        )

    def interrupt():
        wait_until(lambda: len(parts(tmp_path)) > 1, "two parts")
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        call()
    thread.join()
    job = parquetry.job("@last")
    assert job.status().state is JobState.PAUSED
    kept = parts(tmp_path)
    assert len(kept) < 40
    assert call()["n"].tolist() == list(range(400))
    assert kept.items() <= parts(tmp_path).items()


def test_a_started_job_is_streamed_awaited_and_its_error_rows_are_retried(tmp_path, generator):
    pandas_frame = frame(60)
    pandas_frame.to_parquet(tmp_path / "in.parquet")
    spec = {
        "task": "generate",
        "name": "handle",
        "input": {"path": str(tmp_path / "in.parquet")},
        "output": {"path": str(tmp_path / "out"), "keep": ["n"]},
        "model": {"id": str(generator)},
        "prompt": {"template": "Say {{ text }}"},
        "generation": {"max_new_tokens": 4},
        "shards": {"rows": 10},
    }
    job = parquetry.run(spec, wait=False)
    assert parquetry.job("handle").id == job.id
    rows = list(job.stream(poll_s=0.1))
    assert sorted(row["row"] for row in rows) == list(range(60))
    assert all((row["output"] is None) == (row["error"] is not None) for row in rows)

    async def ended():
        return await job

    assert asyncio.run(ended()).state is JobState.DONE
    (group,) = job.errors()
    assert group.rows == 10 == sum(row["error"] is not None for row in rows)
    begun = job.retry(rows=True, changes={"prompt.template": "Say {{ n }}"})
    assert begun.rows == 10
    job.wait(poll_s=0.1)
    assert job.errors() == [] and job.to_dataset()["row"][:] == list(range(60))
    assert 'role="progressbar"' in job._repr_html_()


def test_a_job_that_ends_without_its_rows_says_so_at_the_end_of_the_stream(tmp_path, generator):
    frame(2).to_parquet(tmp_path / "in.parquet")
    spec = {
        "task": "generate",
        "input": {"path": str(tmp_path / "in.parquet")},
        "output": {"path": str(tmp_path / "out"), "keep": []},
        "model": {"id": str(generator)},
        "prompt": {"template": "Say {{ text }}"},
        "generation": {"max_new_tokens": 4},
        "on_row_error": "fail",
    }
    job = parquetry.run(spec, wait=False)
    with pytest.raises(JobNotDoneError, match="is failed: 0 of 2 rows"):
        list(job.stream(poll_s=0.1))
    with pytest.raises(FrameNotDoneError, match=r"0 of 2 rows are done: .* They stay in /"):
        parquetry.generate(
            frame(2),
            prompt="{{ text }}",
            model=str(generator),
            max_new_tokens=4,
            options={"on_row_error": "fail"},
        )


def test_every_kind_of_frame_gives_the_same_and_a_bad_row_is_a_row(encoder):
    import datasets

    rows = [{"text": text, "n": n} for n, text in enumerate(TEXTS)]
    kinds = [
        pandas.DataFrame(rows),
        polars.DataFrame(rows),
        pa.Table.from_pylist(rows),
        datasets.Dataset.from_list(rows),
        rows,
    ]
    found = [parquetry.embed(given, model=str(encoder), dtype="float32") for given in kinds]
    assert [type(each) for each in found] == [type(given) for given in kinds]
    errors = [[None if pandas.isna(cell) else cell for cell in each] for each in (found[0]["error"], found[1]["error"])]
    errors += [found[2]["error"].to_pylist(), found[3]["error"][:], [row["error"] for row in found[4]]]
    assert errors == [[None, "text is null", None, None, None, None]] * 5
    vectors = [[None if cell is None else list(cell) for cell in each["embedding"]] for each in found[:2]]
    vectors += [found[2]["embedding"].to_pylist(), found[3]["embedding"][:], [row["embedding"] for row in found[4]]]
    assert vectors[0][1] is None and len(vectors[0][0]) == len(found[2]["embedding"][0])
    assert all(vector == vectors[0] for vector in vectors)


def test_a_kept_call_is_read_the_next_time(tmp_path, encoder):
    def call():
        return parquetry.embed(frame(), model=str(encoder), keep=tmp_path / "kept")

    found = call()
    (folder,) = (tmp_path / "kept").iterdir()
    assert folder.name.startswith("embed-") and (folder / "out" / "_SUCCESS").exists()
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    pandas.testing.assert_frame_equal(call(), found)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == written
    parquetry.embed(frame().head(3), model=str(encoder), keep=tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_a_call_that_cannot_run_is_one_sentence_and_leaves_nothing(state, encoder, generator):
    # a call that has failed keeps its folder
    before = set((state / "frames").glob("*"))
    doubled = pandas.concat([frame(), frame()[["text"]]], axis=1)
    with pytest.raises(ColumnNameError, match="2 columns called 'text'"):
        parquetry.embed(doubled, model=str(encoder))
    with pytest.raises(TakenColumnError, match=r'error.*prefix="x_"'):
        parquetry.embed(frame().assign(error="mine"), model=str(encoder))
    with pytest.raises(MissingColumnError, match=r"'txt'.*did you mean 'text'"):
        parquetry.generate(frame(), prompt="{{ txt }}", model=str(generator))
    with pytest.raises(MissingColumnError, match="none with a text for a name"):
        parquetry.embed(pandas.DataFrame({0: ["a"]}), model=str(encoder))
    with pytest.raises(ModelNotFoundError):
        parquetry.embed(frame(), model="/nowhere")
    with pytest.raises(UnknownKeyError, match="did you mean 'max_new_tokens'"):
        parquetry.generate(frame(), prompt="{{ text }}", model=str(generator), max_new_token=3)
    with pytest.raises(InvalidValueError, match="temperature"):
        parquetry.generate(frame(), prompt="{{ text }}", model=str(generator), temperature=-1.0)
    assert set((state / "frames").glob("*")) == before


def test_no_rows_give_the_columns_of_some(encoder, classifier):
    some = parquetry.embed(frame(2), model=str(encoder))
    none = parquetry.embed(frame(0), model=str(encoder))
    assert none.dtypes[["embedding", "error"]].equals(some.dtypes[["embedding", "error"]]) and len(none) == 0
    arrow = pa.table({"text": pa.array([], pa.string())})
    assert parquetry.embed(arrow, model=str(encoder)).schema.field("embedding").type.list_size > 0
    assert parquetry.classify([], model=str(classifier)) == []


def test_a_list_of_texts_becomes_a_list_of_rows(classifier):
    found = parquetry.classify(["good film", "bad film"], model=str(classifier))
    assert [row["text"] for row in found] == ["good film", "bad film"]
    assert {row["label"] for row in found} <= {"negative", "neutral", "positive"}


def test_a_prefix_lets_one_call_follow_another(encoder, classifier):
    once = parquetry.classify(frame().fillna("none"), model=str(classifier), prefix="mood_")
    twice = parquetry.embed(once, model=str(encoder))
    assert list(twice.columns) == ["text", "n", "mood_label", "mood_score", "mood_error", "embedding", "error"]


def test_the_snippets_of_the_page_one_after_the_other(tmp_path, monkeypatch, encoder, classifier):
    (tmp_path / "models").mkdir()
    for name, model in (("embedder", encoder), ("classifier", classifier)):
        (tmp_path / "models" / name).symlink_to(model)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    page = (ROOT / "docs/notebooks.md").read_text()
    for snippet in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(snippet, names)
    moods = names["moods"]
    assert list(moods.index) == ["a", "b", "c"] and list(moods.columns) == ["review", "label", "score", "error"]
    assert moods["error"].fillna("").tolist() == ["", "", "review is null"]
    assert list(names["both"].columns) == [*moods.columns, "vector_embedding", "vector_error"]
    pandas.testing.assert_frame_equal(names["again"], moods)
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert set(names["vectors"]) == {0, 1, 2} and names["vectors"][2] is None
    assert (tmp_path / "vectors/_SUCCESS").exists()
