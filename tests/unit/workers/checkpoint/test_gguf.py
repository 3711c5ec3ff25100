"""Models in a GGUF file: the same tokens as the safetensors they were made of, and refusals in a sentence."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from parquetry.schemas.errors import MissingPackageError, UnusableModelError
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.job import JobSpec, ModelSpec
from parquetry.workers import packages
from parquetry.workers.checkpoint import conversion
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.gguf import gguf_file
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.preparation.tokenization import Tokenizer
from tests.unit.workers.workers_records import DirectClient, make_record, write_table

TEXTS = ["a table of rows", "the quick brown fox", "é 😀", "x"]


@pytest.fixture(scope="module", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARQUETRY_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        settings.cache_clear()
        yield
    settings.cache_clear()


@pytest.fixture(scope="module")
def files(causal_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.unit.workers.checkpoint.gguf_files import write_gguf

    folder = tmp_path_factory.mktemp("gguf")
    return {kind: write_gguf(folder / f"tiny-{kind}.gguf", causal_lm, kind=kind) for kind in ("F32", "Q8_0")}


def run(model: Path, folder: Path, **options: object):
    """The part of a job of four rows over the model."""
    from parquetry.workers.hosting.engine_choice import load_engine
    from parquetry.workers.shards.pipeline import run_shard

    source = write_table(folder / "in.parquet", {"text": TEXTS})
    record = make_record([source], model={"id": str(model), **options}, generation={"max_new_tokens": 12})
    attempt = folder / f"{model.stem}.parquet"
    engine = DirectClient(load_engine(EngineSpec.of(record)))
    run_shard(record, record.shard_plan.shard(0), fence=1, attempt=attempt, engine=engine)
    return pq.read_table(attempt)


def test_a_file_answers_as_the_safetensors_it_was_made_of(causal_lm: Path, files: dict, tmp_path: Path) -> None:
    wanted, found = run(causal_lm, tmp_path), run(files["F32"], tmp_path)
    # prompts went through the chat template of the file
    for column in ("output", "prompt_tokens", "output_tokens", "finish_reason", "error"):
        assert found[column].to_pylist() == wanted[column].to_pylist()
    assert found["error"].null_count == len(TEXTS)
    digests = [table.schema.metadata[b"parquetry.weights"] for table in (wanted, found)]
    assert digests[0] != digests[1]
    checkpoint = Checkpoint.resolve(ModelSpec(id=str(files["F32"])))
    assert Tokenizer.load(checkpoint.folder).vocab_size == checkpoint.config["vocab_size"]
    assert checkpoint.reference == str(files["F32"]) and checkpoint.weights_fingerprint == digests[1].decode()


def test_blocks_are_unpacked_to_what_holds_their_digits(files: dict, causal_lm: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from parquetry.workers.loading.conversion.gguf_conversion import convert, stored_dtype

    assert stored_dtype(files["F32"]) == "float32"
    convert(files["Q8_0"], tmp_path / "q8")
    checkpoint = Checkpoint.resolve(ModelSpec(id=str(tmp_path / "q8")))
    assert checkpoint.config["dtype"] == "bfloat16" and "quantization_config" not in checkpoint.config
    found, wanted = load_file(tmp_path / "q8" / "model.safetensors"), load_file(causal_lm / "model.safetensors")
    assert found.keys() == wanted.keys() and {tensor.dtype for tensor in found.values()} == {torch.float16}
    for name, tensor in wanted.items():
        # half a step of 127 of the largest number of a block
        assert (found[name].float() - tensor).abs().max() <= tensor.abs().max() / 127


def test_a_folder_that_holds_one_file_is_that_model(files: dict, causal_lm: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "m.gguf").write_bytes(b"")
    assert gguf_file(tmp_path / "one") == tmp_path / "one" / "m.gguf"
    (tmp_path / "one" / "n.gguf").write_bytes(b"")
    with pytest.raises(UnusableModelError, match=r"name one of them: m\.gguf, n\.gguf"):
        gguf_file(tmp_path / "one")
    assert gguf_file(causal_lm) is None and gguf_file(tmp_path / "none") is None


def test_it_is_unpacked_once(files: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Checkpoint.resolve(ModelSpec(id=str(files["F32"])))
    monkeypatch.setattr(conversion, "_convert", lambda *_: pytest.fail("unpacked again"))
    assert Checkpoint.resolve(ModelSpec(id=str(files["F32"]))).folder == first.folder


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.gguf", b"not at all", "does not begin as GGUF files do"),
        ("big-00001-of-00002.gguf", b"GGUF", "one of several pieces"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnusableModelError, match=reason):
        Checkpoint.resolve(ModelSpec(id=str(tmp_path / name)))


def test_what_transformers_says_of_a_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.gguf").write_bytes(b"GGUF and nothing more")
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho Traceback >&2\necho 'ValueError: architecture zip is not supported' >&2\nexit 1\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(UnusableModelError, match=r"cannot read it \(ValueError: architecture zip is not supported\)"):
        Checkpoint.resolve(ModelSpec(id=str(tmp_path / "odd.gguf")))
    assert list((settings().state_dir / "gguf").glob("*.partial")) == []


def test_the_package_it_needs_is_named(files: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda module: None if module == "gguf" else module)
    with pytest.raises(MissingPackageError, match="A GGUF model needs the package gguf"):
        Checkpoint.resolve(ModelSpec(id=str(files["F32"])))


def test_submitting_names_the_file_for_every_worker(files: dict, tmp_path: Path, monkeypatch) -> None:
    from parquetry.producers.submission import prepare

    write_table(tmp_path / "in.parquet", {"text": TEXTS})
    monkeypatch.chdir(files["F32"].parent)
    spec = {
        "task": "generate",
        "input": {"path": str(tmp_path / "in.parquet")},
        "output": {"path": str(tmp_path / "out")},
        "model": {"id": files["F32"].name},
        "prompt": {"template": "{{ text }}"},
        "generation": {"max_new_tokens": 8},
    }
    record = prepare(JobSpec.parse(json.loads(json.dumps(spec))))
    assert record.model_path == record.spec.model.id == str(files["F32"])
