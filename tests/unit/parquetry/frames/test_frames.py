"""Tables of every library: what a job reads of them, and what comes back."""

from __future__ import annotations

import datetime
import subprocess
import sys

import pyarrow as pa
import pytest

from parquetry.frames.columns import arrow_column
from parquetry.frames.frame import FrameColumnError, UnknownFrameError
from parquetry.frames.opening import open_frame
from parquetry.schemas.spec.columns import ERROR

NEW = pa.table(
    {
        "output": pa.array(["a", None, "c"], pa.string()),
        "prompt_tokens": pa.array([1, None, 3], pa.int32()),
        "embedding": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float16(), 2)),
        "error": pa.array([None, "x", None], pa.string()),
    }
)


def read(frame, *columns):
    return pa.concat_tables(open_frame(frame).batches(columns))


def test_pandas_keeps_index_types_and_odd_columns():
    pandas = pytest.importorskip("pandas")
    given = pandas.DataFrame(
        {
            "text": ["x", None, "z"],
            "kind": pandas.Categorical(["u", "v", "u"]),
            "at": pandas.to_datetime(["2024-01-01"] * 3).tz_localize("Europe/Paris"),
            "number": pandas.array([1, None, 3], "Int64"),
            "tags": [["a"], [], None],
            "mixed": [1, "two", object],
            7: [1, 2, 3],
        },
        index=pandas.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["one", "two"]),
    )
    given = pandas.concat([given, given[["mixed"]]], axis=1)
    before = given.copy(deep=True)
    joined = open_frame(given).joined(NEW)
    pandas.testing.assert_frame_equal(joined.iloc[:, : given.shape[1]], before)
    pandas.testing.assert_frame_equal(given, before)
    assert joined.index.equals(before.index)
    assert list(joined.columns) == [*before.columns, *NEW.column_names]
    assert joined["output"].isna().tolist() == [False, True, False]
    assert joined["prompt_tokens"].dtype == "Int32"
    assert joined["embedding"].iloc[0].tolist() == [1.0, 2.0]
    assert joined["error"].dtype == joined["output"].dtype
    table = read(given, "kind", "at", "number", "tags", "text")
    assert table["kind"].to_pylist() == ["u", "v", "u"]
    assert table["number"].to_pylist() == [1, None, 3]
    assert table["text"].to_pylist() == ["x", None, "z"]
    assert table["tags"].to_pylist() == [["a"], [], None]


def test_a_type_does_not_depend_on_which_rows_fail():
    pandas = pytest.importorskip("pandas")
    frame = open_frame(pandas.DataFrame({"text": ["x"]}))
    right, wrong = (frame.joined(NEW.slice(row, 1)) for row in (0, 1))
    assert right.dtypes.to_dict() == wrong.dtypes.to_dict()


def test_polars_keeps_categoricals_and_enums():
    polars = pytest.importorskip("polars")
    given = polars.DataFrame(
        {
            "text": ["x", None, "z"],
            "kind": polars.Series(["u", "v", "u"], dtype=polars.Categorical),
            "size": polars.Series(["s", "l", "s"], dtype=polars.Enum(["s", "l"])),
            "at": polars.Series([datetime.datetime(2024, 1, 1)] * 3).dt.replace_time_zone("Europe/Paris"),
            "tags": [["a"], [], None],
            "any": polars.Series([1, "two", object], dtype=polars.Object),
        }
    )
    joined = open_frame(given).joined(NEW)
    assert joined.select(given.columns).schema == given.schema
    assert joined.columns == [*given.columns, *NEW.column_names]
    assert joined["output"].to_list() == ["a", None, "c"]
    assert [None if cell is None else list(cell) for cell in joined["embedding"]] == [[1.0, 2.0], None, [3.0, 4.0]]
    assert read(given, "kind", "size")["size"].to_pylist() == ["s", "l", "s"]
    with pytest.raises(FrameColumnError, match="'any' cannot be read: it holds Python objects"):
        read(given, "any")


def test_arrow_keeps_its_schema_and_what_it_says_of_itself():
    schema = pa.schema(
        [pa.field("text", pa.large_string(), metadata={"a": "b"}), pa.field("text", pa.int8())], {"k": "v"}
    )
    given = pa.Table.from_arrays(
        [pa.array(["x", "y", "z"]).cast(pa.large_string()), pa.array([1, 2, 3], pa.int8())], schema=schema
    )
    joined = open_frame(given).joined(NEW)
    assert joined.select([0, 1]).equals(given, check_metadata=True)
    assert joined.select(["output"]) == NEW.select(["output"])


def test_datasets_keep_features_format_and_selection():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    given = datasets.Dataset.from_dict({"text": ["x", "y", "z", "w"], "label": [0, 1, 1, 0]}, features, split="test")
    given = given.select([3, 1, 0]).with_format("numpy")
    joined = open_frame(given).joined(NEW)
    assert joined["text"][:].tolist() == ["w", "y", "x"]
    assert {name: joined.features[name] for name in features} == features
    assert joined.column_names == ["text", "label", *NEW.column_names]
    assert (joined.split, joined.format["type"]) == (given.split, "numpy")
    assert joined.with_format(None)["output"][:] == ["a", None, "c"]
    assert read(given, "label")["label"].to_pylist() == [0, 1, 0]


def test_lists_become_lists_of_dicts():
    given = [{"q": "x", "deep": {"a": [1]}}, {"q": "y", "more": 1}, {"q": None}]
    joined = open_frame(given).joined(NEW)
    assert [row["q"] for row in joined] == ["x", "y", None]
    assert joined[0]["deep"] is given[0]["deep"] and "output" not in given[0]
    assert read(given, "more")["more"].to_pylist() == [None, 1, None]
    assert open_frame(("a", "b", "c")).joined(NEW)[1] == {"text": "b", **NEW.to_pylist()[1]}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("a text", "A builtins str is no frame; put it into a list. A frame is"),
        (["a", {"b": 1}], "A list with str in row 0 and dict in row 1 is no frame"),
        ([1, 2], "A list with int in row 0 and int in row 0 is no frame"),
        (7, "A builtins int is no frame. A frame is a pandas or polars DataFrame"),
    ],
)
def test_what_is_no_frame_is_told_what_one_is(given, sentence):
    with pytest.raises(UnknownFrameError) as caught:
        open_frame(given)
    assert str(caught.value).startswith(sentence)


def test_what_is_nearly_a_frame_is_told_how_it_becomes_one():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    with pytest.raises(UnknownFrameError, match="to_frame"):
        open_frame(pandas.Series(["a"]))
    with pytest.raises(UnknownFrameError, match="collect"):
        open_frame(polars.LazyFrame({"text": ["a"]}))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["a", None, 3], r"it holds str \(row 0\) and int \(row 2\); make it texts: str\(x\)"),
        ([None, {"a": 1}, "b"], r"it holds dict \(row 1\) and str \(row 2\)"),
        ([object()], "did not recognize Python value type"),
        (["\ud800"], "surrogates not allowed"),
        ([2**70], "make it texts"),
    ],
)
def test_a_column_of_several_kinds_is_refused_in_one_sentence(values, sentence):
    with pytest.raises(FrameColumnError, match=sentence) as caught:
        arrow_column("c", values, remedy="str(x)")
    assert "\n" not in str(caught.value)


def test_a_type_that_only_its_library_reads_is_refused():
    pandas = pytest.importorskip("pandas")
    given = pandas.DataFrame({"when": pandas.period_range("2024-01", periods=2, freq="M")})
    with pytest.raises(FrameColumnError, match="'when' cannot be read"):
        read(given, "when")


def test_missing_values_of_pandas_are_nulls():
    assert arrow_column("c", ["a", float("nan"), None], remedy="").to_pylist() == ["a", None, None]


def test_no_library_of_frames_is_loaded_for_those_who_have_none():
    code = "import parquetry.frames.tasks, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"pandas", "polars", "datasets", "torch", "IPython", "transformers"}.isdisjoint(loaded)


def test_the_error_column_is_the_last_one():
    assert NEW.schema.field("error").equals(ERROR)
