"""`parquetry export`: an ONNX file made ahead, and found by the jobs that want it."""

import json
import shutil

import pytest
from typer.testing import CliRunner

pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
pytest.importorskip("onnxscript", reason="the onnx extra is not installed")

from tests.acceptance.commands import Shell
from tests.acceptance.tables import read_parts, write_file


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tests.models import write_classifier

    return write_classifier(tmp_path_factory.mktemp("export") / "model")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, model):
    """A shell, and a copy of the model with an int8 export in its folder."""
    shell = Shell(tmp_path_factory.mktemp("shell"))
    shutil.copytree(model, shell.folder / "model")
    ended = shell.run("export", "model", "model", "--dtype", "int8")
    assert ended.returncode == 0, ended.stderr
    return shell, ended


def run_job(shell, name, quantization):
    """The parts of a run of 40 rows through ONNX Runtime."""
    write_file(shell.folder / "rows.parquet", 40)
    shell.spec(
        name,
        task="classify",
        input={"path": "rows.parquet"},
        output={"path": name},
        model={"id": "model", "backend": "onnxruntime", "quantization": quantization},
    )
    ended = shell.run("run", f"{name}.yaml", "--json")
    assert ended.returncode == 0, ended.stderr
    return read_parts(shell.folder / name)


def test_it_says_what_it_wrote(exported):
    shell, ended = exported
    assert ended.stdout == "Wrote model/model.onnx\n"
    facts = json.loads((shell.folder / "model" / "export.json").read_text())
    assert facts["graph"]["quantization"] == "int8"


@pytest.mark.parametrize(
    ("arguments", "graph"),
    [
        (["--packed"], {"dtype": "float16", "form": "packed", "attention": "fused"}),
        (["--dtype", "fp16", "--plain"], {"dtype": "float16", "form": "padded", "attention": "plain"}),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else None,
)
def test_the_file_is_what_was_asked_for(model, tmp_path, arguments, graph, monkeypatch):
    from parquetry.cli import app

    monkeypatch.setattr("logging.disable", lambda _: None)
    ended = CliRunner().invoke(app, ["export", str(model), str(tmp_path / "out"), *arguments])
    assert ended.exit_code == 0, ended.output
    facts = json.loads((tmp_path / "out" / "export.json").read_text())["graph"]
    assert {name: facts[name] for name in graph} == graph
    assert facts["quantization"] == "none"


def test_a_job_finds_it_beside_the_weights(exported):
    shell, _ = exported
    table = run_job(shell, "int8", "int8")
    assert table["error"].null_count == 39
    assert not list(shell.folder.glob("state/onnx/*"))


def test_a_job_of_another_kind_does_not_take_it(exported):
    shell, _ = exported
    run_job(shell, "float32", "none")
    assert len(list(shell.folder.glob("state/onnx/*/model.onnx"))) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "out"], "There is no model at nowhere"),
        (["model", "taken"], "holds a model.onnx already"),
        (["model", "a.file"], "it is a file"),
        (["model", "a.file/below"], "cannot take the export"),
        (["model", "out", "--packed", "--dtype", "int8"], "int8"),
        (["model", "out", "--packed", "--dtype", "float32"], "float16"),
        (["model", "out", "--packed", "--plain"], "fused operator"),
        (["bare", "out", "--task", "classify"], "without a classification head"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, list) else None,
)
def test_what_cannot_be_is_refused_in_one_sentence(shell, model, encoder, arguments, words):
    shutil.copytree(model, shell.folder / "model")
    shutil.copytree(encoder, shell.folder / "bare")
    (shell.folder / "taken").mkdir()
    for name in ("taken/model.onnx", "a.file"):
        (shell.folder / name).write_text("here before")
    ended = shell.run("export", *arguments)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("parquetry: ")
    assert not (shell.folder / "out").exists()
