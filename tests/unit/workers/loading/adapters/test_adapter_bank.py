"""Adapters that rows choose from: through jobs, the padded back end and quantized weights, or refused in a sentence."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from parquetry.schemas.errors import AdapterMismatchError, InvalidValueError, MissingColumnError, ModelNotFoundError
from parquetry.schemas.spec.job import JobSpec
from parquetry.workers.checkpoint.adapter import Adapter
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.loading.needs import LoadingNeeds
from tests.unit.workers.checkpoint.test_adapter import fake_adapter
from tests.unit.workers.loading.spec_cases import engine_spec
from tests.unit.workers.workers_records import DirectClient, make_record, write_table

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

PROMPT = np.arange(5, 17, dtype=np.int32)


@pytest.fixture(scope="module")
def folders(causal_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    from transformers import AutoModelForCausalLM

    from tests.unit.workers.checkpoint.adapter_folders import SHAPES, write_adapter

    folder = tmp_path_factory.mktemp("adapters")
    model = AutoModelForCausalLM.from_pretrained(causal_lm)
    return {name: str(write_adapter(folder / name, model, name)) for name in SHAPES}


def generate(engine, adapters: list[str | None]) -> list[list[int]]:
    """Outputs of one prompt under each adapter."""
    from parquetry.workers.request import GenerationRequest, SamplingParams

    params = SamplingParams(max_new_tokens=6)
    engine.add(
        [GenerationRequest(id=i, row=i, prompt_ids=PROMPT, adapter=a, params=params) for i, a in enumerate(adapters)]
    )
    results = []
    while engine.num_unfinished:
        results += engine.step()
    assert all(result.error is None for result in results)
    return [result.output_ids.tolist() for result in sorted(results, key=lambda result: result.id)]


def load(folder: Path, **options: object):
    from parquetry.workers.hosting.engine_choice import load_engine

    return load_engine(engine_spec(folder, **options))


@pytest.mark.parametrize("backend", ["packed", "transformers"])
def test_mixed_rows_equal_those_of_merged_models(causal_lm: Path, folders: dict, backend: str) -> None:
    mixed = generate(load(causal_lm, backend=backend, adapters=folders), [None, *folders, None])
    merged = [generate(load(causal_lm, backend=backend, adapter=folder), [None])[0] for folder in folders.values()]
    (base,) = generate(load(causal_lm, backend=backend), [None])
    assert mixed == [base, *merged, base]
    assert len({tuple(ids) for ids in mixed}) == 4


@pytest.mark.parametrize("quantization", ["int8", "nf4", "int8-weight-only"])
def test_they_stand_beside_quantized_weights(wide_lm: Path, tmp_path: Path, quantization: str) -> None:
    import torch

    pytest.importorskip("torchao" if quantization == "int8-weight-only" else "bitsandbytes")
    from transformers import AutoModelForCausalLM

    from parquetry.workers.loading.adapters.adapter_bank import AdapterBank
    from parquetry.workers.loading.model import load_model
    from tests.unit.workers.checkpoint.adapter_folders import write_adapter

    def logits(number: int, **options: object):
        spec = engine_spec(wide_lm, dtype="bfloat16", **options)
        model = load_model(spec, Checkpoint.resolve(spec.model), AutoModelForCausalLM)
        chosen = torch.full((len(PROMPT),), number) if "adapters" in options else None
        with AdapterBank.of(model).choosing(chosen):
            return model(input_ids=torch.from_numpy(PROMPT).long()[None]).logits.float()

    adapter = write_adapter(tmp_path / "a", AutoModelForCausalLM.from_pretrained(wide_lm), "attention")
    wanted, without = logits(0, adapter=str(adapter)), logits(0, quantization=quantization)
    found = logits(1, adapters={"a": str(adapter)}, quantization=quantization)
    assert (found - wanted).norm() < 0.5 * (without - wanted).norm()
    assert torch.equal(logits(0, adapters={"a": str(adapter)}, quantization=quantization), without)


def test_each_row_of_a_job_names_its_adapter(causal_lm: Path, folders: dict, tmp_path: Path) -> None:
    from parquetry.workers.hosting.engine_choice import load_engine
    from parquetry.workers.shards.pipeline import run_shard

    names = ["mlp", None, "", "nobody", "attention", "mlp"]
    source = write_table(tmp_path / "in.parquet", {"text": ["same text"] * 6, "who": names})
    model = {"id": str(causal_lm), "adapters": folders, "adapter_column": "who"}
    record = make_record([source], model=model, output={"path": "out", "keep": []}, generation={"max_new_tokens": 6})
    engine = load_engine(EngineSpec.of(record))
    attempt = tmp_path / "attempt.parquet"
    run_shard(record, record.shard_plan.shard(0), fence=1, attempt=attempt, engine=DirectClient(engine))
    table = pq.read_table(attempt)
    outputs, errors = table["output"].to_pylist(), table["error"].to_pylist()
    assert errors[3] == "there is no adapter 'nobody'; model.adapters lists attention, everything, mlp"
    assert [error is None for error in errors] == [True, True, True, False, True, True]
    assert outputs[0] == outputs[5] and outputs[1] == outputs[2]
    assert Counter(outputs).most_common(1)[0][1] == 2
    about = table.schema.metadata
    assert json.loads(about[b"parquetry.adapter"]) == folders
    digests = json.loads(about[b"parquetry.adapter_weights"])
    assert digests == {name: Adapter(Path(folder)).weights_fingerprint for name, folder in folders.items()}
    assert len(set(digests.values())) == 3


def test_jobs_that_read_another_column_share_the_engine(causal_lm: Path, tmp_path: Path) -> None:
    source = write_table(tmp_path / "in.parquet", {"text": ["a"], "x": ["a"], "y": ["a"]})

    def key(column: str, folder: str) -> str:
        model = {"id": str(causal_lm), "adapters": {"a": folder}, "adapter_column": column}
        return EngineSpec.of(make_record([source], model=model)).key

    assert key("x", "one") == key("y", "one") != key("x", "two")


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["lm_head"]}]
)
def test_what_cannot_differ_from_row_to_row_is_refused(causal_lm: Path, tmp_path: Path, options: dict) -> None:
    from transformers import AutoModelForCausalLM

    from tests.unit.workers.checkpoint.adapter_folders import write_adapter

    folder = write_adapter(tmp_path / "a", AutoModelForCausalLM.from_pretrained(causal_lm), "attention", **options)
    spec = engine_spec(causal_lm, adapters={"a": str(folder)}).model
    with pytest.raises(AdapterMismatchError, match=r"cannot differ from row to row; merge it with model\.adapter"):
        LoadingNeeds(spec, Checkpoint.resolve(spec)).check()


def test_weights_that_are_no_numbers_are_refused(causal_lm: Path, folders: dict, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folders["mlp"], tmp_path / "a")
    weights = load_file(tmp_path / "a" / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, tmp_path / "a" / "adapter_model.safetensors")
    with pytest.raises(AdapterMismatchError, match="finite numbers"):
        load(causal_lm, adapters={"a": str(tmp_path / "a")})


def test_each_is_checked_against_the_base_models_headers(causal_lm: Path, tmp_path: Path) -> None:
    def check(folder: Path) -> LoadingNeeds:
        spec = engine_spec(causal_lm, adapters={"good": str(fake_adapter(tmp_path / "good")), "other": str(folder)})
        needs = LoadingNeeds(spec.model, Checkpoint.resolve(spec.model))
        needs.check()
        return needs

    needs = check(fake_adapter(tmp_path / "fits"))
    without = LoadingNeeds(needs.model.model_copy(update={"adapters": None}), needs.checkpoint)
    assert needs.needed_bytes("cpu") - without.needed_bytes("cpu") == 2 * (4 * 32 + 32 * 4) * 4
    with pytest.raises(AdapterMismatchError, match="32 x 64"):
        check(fake_adapter(tmp_path / "other", inputs=64))
    with pytest.raises(ModelNotFoundError, match=r"adapter_config\.json"):
        check(tmp_path / "nothing")


BASE = {
    "task": "generate",
    "input": {"path": "in.parquet"},
    "output": {"path": "out"},
    "prompt": {"template": "{{ text }}"},
}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"adapters": {"a": "x"}}, "go together"),
        ({"adapter_column": "who"}, "go together"),
        ({"adapters": {}, "adapter_column": "who"}, "name at least one"),
        ({"adapters": {"": "x"}, "adapter_column": "who"}, "needs a name"),
        ({"adapters": {"a": "x"}, "adapter_column": "who", "adapter": "y"}, "not both"),
    ],
)
def test_specs_that_say_half_of_it_are_refused(changes: dict, reason: str) -> None:
    with pytest.raises(InvalidValueError, match=reason):
        JobSpec.parse({**BASE, "model": {"id": "m", **changes}})


def test_encoders_take_one_adapter_for_all_rows() -> None:
    model = {"id": "m", "adapters": {"a": "x"}, "adapter_column": "who"}
    with pytest.raises(
        InvalidValueError, match=r"task embed takes one adapter for all rows; name it in model\.adapter"
    ):
        JobSpec.parse({**BASE, "task": "embed", "model": model})


def test_submitting_wants_the_column_and_finds_the_folders(causal_lm: Path, folders: dict, tmp_path: Path) -> None:
    from parquetry.producers.draft import located
    from parquetry.producers.submission import prepare

    write_table(tmp_path / "in.parquet", {"text": ["a"], "who": ["mlp"]})
    paths = {"input": {"path": str(tmp_path / "in.parquet")}, "output": {"path": str(tmp_path / "out")}}

    def spec(column: str) -> JobSpec:
        model = {"id": str(causal_lm), "adapters": folders, "adapter_column": column}
        return JobSpec.parse({**BASE, **paths, "model": model, "generation": {"max_new_tokens": 8}})

    assert prepare(spec("who")).spec.model.adapter_column == "who"
    with pytest.raises(MissingColumnError, match=r"model\.adapter_column names the column 'whom'.*did you mean 'who'"):
        prepare(spec("whom"))
    inside = spec("who").model.model_copy(update={"adapters": {"a": folders["mlp"] + "/../mlp"}})
    assert located(spec("who").model_copy(update={"model": inside})).model.adapters == {"a": folders["mlp"]}
