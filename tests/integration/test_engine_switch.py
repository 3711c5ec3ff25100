"""Jobs that differ in attention alone: one process keeps the weights and exchanges the engine on top of them."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from parquetry.schemas.errors import EngineRefusedError, OtherWeightsError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.model_host import ModelHost
from parquetry.workers.process.client import EngineClient
from parquetry.workers.process.supervisor import EngineSupervisor
from parquetry.workers.request import EncodeRequest, GenerationRequest, SamplingParams
from parquetry.workers.shards.part import from_metadata
from parquetry.workers.shards.pipeline import run_shard
from tests.integration.test_engine_process import collect
from tests.models import write_causal_lm, write_embedder
from tests.unit.workers.workers_records import make_record, write_table


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_causal_lm(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def supervisor() -> Iterator[EngineSupervisor]:
    with tempfile.TemporaryDirectory(prefix="pq-") as folder:
        supervisor = EngineSupervisor("cpu", Path(folder) / "device")
        supervisor.start()
        yield supervisor
        supervisor.stop()


def num_loads(supervisor: EngineSupervisor, folder: Path) -> int:
    return (supervisor.socket.parent / "engine.log").read_text().count(f"loaded the weights of {folder} ")


def spec_of(folder: Path, task: str = "generate", pooling: str | None = None, **model: object) -> EngineSpec:
    options = ModelSpec(id=str(folder), **model)
    return EngineSpec(task=task, model_path=str(folder), model=options, pooling=pooling, token_budget=512)


def tokens(client: EngineClient) -> dict[int, list[int]]:
    params = SamplingParams(max_new_tokens=6)
    prompts = [np.arange(5, 9 + 3 * i, dtype=np.int32) for i in range(4)]
    client.submit([GenerationRequest(id=i, row=i, prompt_ids=ids, params=params) for i, ids in enumerate(prompts)])
    return collect(client, 4)


def test_attention_changes_and_the_weights_stay(supervisor: EngineSupervisor, lm: Path, tmp_path: Path) -> None:
    source = write_table(tmp_path / "in.parquet", {"text": ["one", "two", "three"]})
    choices = [
        ({"attention": "eager"}, ("transformers", "eager")),
        ({"attention": "sdpa", "backend": "packed"}, ("packed", "sdpa")),
        ({"attention": "sdpa-math", "backend": "transformers"}, ("transformers", "sdpa-math")),
        ({"attention": "auto", "backend": "transformers", "compile": False}, ("transformers", "sdpa")),
        ({}, ("packed", "sdpa")),
        ({"attention": "eager"}, ("transformers", "eager")),
    ]
    outputs, pids = [], set()
    for number, (model, ran) in enumerate(choices):
        generation = {"max_new_tokens": 6}
        record = make_record([source], model={"id": str(lm), **model}, generation=generation)
        attempt = tmp_path / f"{number}.parquet"
        with EngineClient.connect(supervisor.socket, EngineSpec.of(record)) as client:
            run_shard(record, record.shard_plan.shard(0), fence=1, attempt=attempt, engine=client)
            pids.add(supervisor.engine_pid)
        about = from_metadata(pq.read_metadata(attempt).metadata)
        assert (about["backend"], about["attention"]) == ran
        outputs.append(pq.read_table(attempt)["output"].to_pylist())
    assert len(pids) == 1 and num_loads(supervisor, lm) == 1
    assert all(each == outputs[0] for each in outputs)


def test_a_shard_keeps_its_engine_to_the_end(supervisor: EngineSupervisor, lm: Path) -> None:
    with EngineClient.connect(supervisor.socket, spec_of(lm, attention="eager")) as client:
        others: list[EngineClient] = []
        asked = threading.Event()
        thread = threading.Thread(
            target=lambda: others.append(
                EngineClient.connect(supervisor.socket, spec_of(lm, attention="sdpa"), on_wait=asked.set)
            )
        )
        thread.start()
        assert asked.wait(20)
        before = tokens(client)
        assert not others and client.describe()["attention"] == "eager"
    thread.join(60)
    (other,) = others
    with other:
        assert other.describe()["attention"] == "sdpa"
        assert tokens(other) == before
    assert num_loads(supervisor, lm) == 1


def test_a_choice_this_machine_lacks_is_refused_and_the_weights_stay(supervisor: EngineSupervisor, lm: Path) -> None:
    with EngineClient.connect(supervisor.socket, spec_of(lm)) as client:
        before, pid = tokens(client), supervisor.engine_pid
    for attention in ("sdpa-cudnn", "triton", "triton"):
        with pytest.raises(EngineRefusedError, match="CUDA card"):
            EngineClient.connect(supervisor.socket, spec_of(lm, attention=attention))
    with EngineClient.connect(supervisor.socket, spec_of(lm)) as client:
        assert tokens(client) == before
    assert supervisor.engine_pid == pid and num_loads(supervisor, lm) == 1


def test_an_embedder_changes_its_pooling(tmp_path: Path) -> None:
    folder, host, found = write_embedder(tmp_path / "embedder"), ModelHost(lambda: None), {}
    for pooling, backend in (("mean", "auto"), ("cls", "auto"), ("mean", "packed")):
        engine = host.build(spec_of(folder, "embed", pooling, backend=backend))
        engine.add([EncodeRequest(id=1, token_ids=np.arange(5, 12, dtype=np.int32))])
        (found[pooling, backend],) = (result.values for result in engine.step())
        assert engine.describe()["pooling"] == pooling
    np.testing.assert_allclose(found["mean", "packed"], found["mean", "auto"], atol=1e-5)
    assert not np.allclose(found["mean", "auto"], found["cls", "auto"])
    with pytest.raises(OtherWeightsError, match="PackedEncoder changed them for good"):
        host.build(spec_of(folder, "embed", "cls"))


@pytest.mark.parametrize(
    ("one", "other", "is_shared"),
    [
        ({"attention": "eager"}, {"attention": "flash_attention_2"}, True),
        ({"backend": "packed"}, {"backend": "transformers"}, True),
        ({"compile": False}, {}, True),
        ({"quantization": "int8", "backend": "packed"}, {"quantization": "int8", "backend": "transformers"}, False),
        ({"quantization": "nf4"}, {}, False),
        ({"dtype": "float16"}, {}, False),
        ({"backend": "onnxruntime"}, {}, False),
    ],
)
def test_what_the_weights_depend_on(one: dict, other: dict, is_shared: bool) -> None:
    first, second = (spec_of(Path("/m"), "embed", **model) for model in (one, other))
    assert first.key != second.key
    assert (first.weights_key == second.weights_key) == is_shared
