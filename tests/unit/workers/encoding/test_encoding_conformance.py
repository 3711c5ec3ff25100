"""One suite over every encoder back end: the same rows, the same answers, the same error rows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from parquetry.schemas import settings as settings_module
from tests.unit.workers.encoding.conformance import BROKEN, BackEnd, answers, rows

PADDED = BackEnd("padded", "transformers")
PACKED = BackEnd("packed", "packed")
ONNX = BackEnd("onnx", "onnxruntime")
INT8 = BackEnd("onnx-int8", "onnxruntime", quantization="int8", tolerance=0.15)
#: task of the job, and the fixture of its model
KINDS = {
    "classify": ("classify", "classifier"),
    "one-label": ("classify", "scorer"),
    "regression": ("classify", "regressor"),
    "several labels": ("classify", "multi_label"),
    "score": ("score", "scorer"),
    "embed": ("embed", "embedder"),
}
CASES = [(kind, back_end) for kind in KINDS for back_end in (PACKED, ONNX)] + [("classify", INT8)]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module", autouse=True)
def export_cache(tmp_path_factory):
    """Exports go to a folder of the test's own, shared by its cases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARQUETRY_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        settings_module.settings.cache_clear()
        yield
    settings_module.settings.cache_clear()


@pytest.fixture(scope="module")
def regressor(tmp_path_factory):
    """One output that is a number, not a probability."""
    from tests.models import write_classifier

    folder = tmp_path_factory.mktemp("models") / "regressor"
    return write_classifier(folder, labels=["stars"], problem_type="regression")


@pytest.fixture(scope="module")
def multi_label(tmp_path_factory):
    """Labels that exclude nothing."""
    from tests.models import write_classifier

    folder = tmp_path_factory.mktemp("models") / "multi-label"
    return write_classifier(folder, problem_type="multi_label_classification")


@pytest.fixture(scope="module")
def padded_answers(request):
    """Model folder, rows, and what the padded torch back end makes of them and says of its scores, by kind."""
    made = {}

    def of(kind):
        if kind not in made:
            task, fixture = KINDS[kind]
            folder = request.getfixturevalue(fixture)
            requests, engine = case_rows(folder), PADDED.engine(folder, task)
            made[kind] = (folder, requests, answers(engine, requests), engine.describe().get("activation"))
        return made[kind]

    return of


def case_rows(folder):
    config = json.loads((folder / "config.json").read_text())
    bert = folder / "sentence_bert_config.json"
    window = json.loads(bert.read_text())["max_seq_length"] if bert.is_file() else config["max_position_embeddings"]
    return rows(window, config["vocab_size"])


@pytest.mark.parametrize(("kind", "back_end"), CASES, ids=lambda x: x if isinstance(x, str) else x.name)
def test_back_end_agrees_with_padded_torch(kind, back_end, padded_answers):
    folder, requests, expected, activation = padded_answers(kind)
    engine = back_end.engine(folder, KINDS[kind][0])
    found = answers(engine, requests)
    assert engine.describe().get("activation") == activation
    assert found.keys() == expected.keys() == {request.id for request in requests}
    assert {number: result.error for number, result in found.items() if result.error} == {
        number: result.error for number, result in expected.items() if result.error
    }
    for number, result in expected.items():
        np.testing.assert_allclose(found[number].values, result.values, atol=back_end.tolerance, rtol=0)


def test_the_broken_rows_fail_and_no_other(padded_answers):
    expected = padded_answers("classify")[2]
    assert {number for number, result in expected.items() if result.error} == BROKEN


@pytest.mark.parametrize("back_end", [PADDED, PACKED, ONNX], ids=lambda x: x.name)
def test_engines_say_what_they_are(back_end, classifier):
    facts = back_end.engine(classifier, "classify").describe()
    assert facts["backend"] == back_end.backend
    assert facts["num_labels"] == "3"
    assert all(isinstance(value, str) for value in facts.values())


@pytest.mark.parametrize("back_end", [PADDED, PACKED], ids=lambda x: x.name)
def test_cancelled_rows_never_come_back(back_end, classifier):
    engine = back_end.engine(classifier, "classify")
    requests = case_rows(classifier)
    engine.add(requests)
    gone = {requests[0].id, 100}
    engine.cancel(gone)
    results = set()
    while engine.num_unfinished:
        results |= {result.id for result in engine.step()}
    assert results == {request.id for request in requests} - gone
