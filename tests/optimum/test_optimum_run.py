"""A whole job through a worker in Optimum's environment: queue, engine process, Parquet out."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow.compute as pc
import pytest

pytest.importorskip("optimum.onnxruntime", reason="the optimum extra is not installed; run make test-optimum")

import torch
from transformers import AutoModelForSequenceClassification

from tests.acceptance.commands import ROOT, Shell
from tests.acceptance.tables import read_parts, texts, write_file
from tests.models import LABELS, load_tokenizer, write_classifier

pytestmark = pytest.mark.filterwarnings("default")
NUM_ROWS = 60


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The shell of a finished run, and what the run said."""
    shell = Shell(tmp_path_factory.mktemp("optimum"))
    write_classifier(shell.folder / "model")
    write_file(shell.folder / "rows.parquet", NUM_ROWS)
    shell.spec(
        "job",
        task="classify",
        input={"path": "rows.parquet"},
        output={"path": "out"},
        model={"id": "model", "backend": "optimum"},
        shards={"rows": 25},
    )
    return shell, shell.run("run", "job.yaml", "--json")


def test_every_row_gets_the_label_that_torch_gives_it(job):
    shell, ended = job
    assert ended.returncode == 0, ended.stderr
    table = read_parts(shell.folder / "out").filter(pc.field("error").is_null())
    assert table.num_rows == NUM_ROWS - 1
    model = AutoModelForSequenceClassification.from_pretrained(shell.folder / "model").eval()
    tokenizer = load_tokenizer(shell.folder / "model")
    for row in table.to_pylist()[::7]:
        with torch.inference_mode():
            encoded = tokenizer(texts(NUM_ROWS)[row["row"]], return_tensors="pt")
            probabilities = model(**encoded).logits.softmax(-1)[0].numpy()
        assert row["label"] == LABELS[int(probabilities.argmax())]
        np.testing.assert_allclose(row["score"], probabilities.max(), atol=1e-4)


def test_parts_say_what_made_them(job):
    shell, ended = job
    assert json.loads(ended.stdout)["queue"] == "optimum"
    import pyarrow.parquet as pq

    written = pq.read_schema(next((shell.folder / "out").glob("part-*.parquet"))).metadata
    assert b"optimum" in b" ".join(written.values())
    assert shell.processes() == {}


def test_its_engine_process_loads_no_other_back_end(job):
    shell, _ = job
    code = f"""
import sys
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.hosting.process import _builder
from parquetry.workers.engine_spec import EngineSpec
folder = {str(shell.folder / "model")!r}
spec = EngineSpec(task="classify", model_path=folder, model=ModelSpec(id=folder, backend="optimum"))
engine = _builder(spec, None, None, None)(spec)
print(engine.describe()["backend"], "parquetry.workers.hosting.engine_choice" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["optimum", "False"], done.stderr
