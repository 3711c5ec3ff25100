"""What is wrong with a job ends in one clear sentence and exit code 2, and nothing is written."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquetry.schemas.errors import BrokerUnreachableError
from tests.acceptance.tables import write_file

CASES = {
    "unknown key": (["model.quantisation=nf4"], "did you mean 'quantization'"),
    "wrong type": (["generation.max_new_tokens=many"], "generation.max_new_tokens"),
    "missing file": (["input.path=none/*.parquet"], "none/*.parquet"),
    "missing column": (["output.keep=[idd]"], "did you mean 'id'"),
    "template syntax": (["prompt.template={{ text"], "line 1"),
    "undefined variable": (["prompt.template={{ txet }}"], "did you mean 'text'"),
    "no new tokens": (["generation.max_new_tokens=0"], "generation.max_new_tokens is 0"),
    "beyond the window": (["generation.max_new_tokens=1000000"], "the model's context window"),
    "output inside input": (["input.path=folder", "output.path=folder/out"], "lies inside the input"),
    "no safetensors": (["model.id=pickled"], ".safetensors"),
    "unknown quantization": (["model.quantization=int3"], "model.quantization"),
    "no model": (["model.id=./none"], "There is no model at"),
    "empty input": (["input.path=empty.parquet"], "has no rows"),
    "not parquet": (["input.path=noise.parquet"], "noise.parquet"),
    "unusable override": (["model.quantization"], "--set"),
}


@pytest.fixture(scope="module")
def bad_shell(shell_of, generator, tmp_path_factory):
    """A job that would run, beside everything that is wrong in some case."""
    shell = shell_of(tmp_path_factory.mktemp("bad"))
    write_file(shell.folder / "in.parquet", 20)
    (shell.folder / "folder").mkdir()
    write_file(shell.folder / "folder" / "in.parquet", 20)
    pq.write_table(pa.table({"id": pa.array([], pa.string()), "text": []}), shell.folder / "empty.parquet")
    (shell.folder / "noise.parquet").write_bytes(b"noise" * 100)
    _copy_without_weights(generator, shell.folder / "pickled")
    shell.spec(
        "job",
        task="generate",
        input={"path": "in.parquet"},
        output={"path": "out"},
        model={"id": str(generator)},
        prompt={"template": "{{ text }}"},
        generation={"max_new_tokens": 4},
    )
    return shell


def _copy_without_weights(model, folder):
    folder.mkdir()
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"pickle")


def files_of(shell):
    return sorted(path for path in shell.folder.rglob("*") if "state" not in path.parts)


@pytest.mark.parametrize("name", CASES)
def test_bad_input(bad_shell, name):
    overrides, wanted = CASES[name]
    before = files_of(bad_shell)
    ended = bad_shell.run("run", "job.yaml", *(part for text in overrides for part in ("--set", text)))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert wanted in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert files_of(bad_shell) == before


def test_a_spec_that_is_not_there(bad_shell):
    ended = bad_shell.run("submit", "none.yaml")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("command", ["run", "submit"])
def test_an_unreachable_broker_is_named_without_its_password(bad_shell, command):
    before = files_of(bad_shell)
    ended = bad_shell.with_broker("redis://user:secret@127.0.0.1:9/0").run(command, "job.yaml")
    assert ended.returncode == BrokerUnreachableError.exit_code
    assert "redis://127.0.0.1:9/0" in ended.stderr
    assert "secret" not in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert files_of(bad_shell) == before
