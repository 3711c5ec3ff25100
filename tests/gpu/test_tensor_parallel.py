"""One engine over two cards or four: the tokens of one card, decode steps as graphs, and an end when a rank ends."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from parquetry.schemas.errors import EngineLostError
from parquetry.workers.process.client import EngineClient
from parquetry.workers.process.supervisor import EngineSupervisor
from parquetry.workers.request import Completion, GenerationRequest
from tests.unit.workers.parallel.shared_models import (
    EXPERTS,
    LENGTHS,
    load_one,
    load_ranks,
    make_requests,
    mixed_requests,
    outputs,
    run_all,
    spec_of,
    weight_bytes,
    write_model,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two CUDA devices"),
    pytest.mark.filterwarnings("default"),
]
#: as large as the kernels want, and sharp enough in float32 that no choice is a matter of rounding
WIDE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "head_dim": 64,
    "num_key_value_heads": 4,
    "initializer_range": 0.2,
}
QWEN_06B = {
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 4096,
    "initializer_range": 0.02, "tie_word_embeddings": True,
}  # fmt: skip
SAMPLED = {"temperature": 0.9, "top_p": 0.9, "top_k": 50, "seed": 3}


def let_go(engine: object) -> None:
    if hasattr(engine, "close"):
        engine.close()
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture
def store() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pq-") as folder:
        yield Path(folder)


def on_one_card(folder: Path, batches: list[list[GenerationRequest]], **model: object) -> list[dict[int, Completion]]:
    engine = load_one(folder, "cuda:0", **model)
    found = [run_all(engine, batch) for batch in batches]
    let_go(engine)
    return found


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen3_moe"])
def test_float32_tokens_are_those_of_one_card(
    tmp_path: Path, store: Path, family: str, compiled: bool, size: int
) -> None:
    if torch.cuda.device_count() < size:
        pytest.skip(f"there are not {size} CUDA devices")
    experts = {**EXPERTS, "moe_intermediate_size": 128} if family == "qwen3_moe" else {}
    folder = write_model(tmp_path / "model", family, **{**WIDE, **experts})
    batches = [make_requests(*LENGTHS), make_requests(*LENGTHS, **SAMPLED), make_requests(*LENGTHS, logprobs=True)]
    batches.append(mixed_requests())
    want = on_one_card(folder, batches, compile=compiled)
    problems: list[str] = []
    engine = load_ranks(folder, size, store, problems, kind="cuda", compile=compiled)
    try:
        if family != "qwen3_moe":
            assert engine.engine.runner.graphs is not None
        got = [run_all(engine, batch) for batch in batches]
        assert [outputs(done) for done in got] == [outputs(done) for done in want]
        np.testing.assert_allclose(got[2][0].logprobs, want[2][0].logprobs, atol=1e-3)
        engine.engine.runner.step_sender.send(compare())
        engine.engine.runner.compare()
        engine.check_integrity()
    finally:
        let_go(engine)
    assert problems == []


def compare() -> object:
    from parquetry.workers.packed.together import Compare

    return Compare()


def gaps_below_the_best(folder: Path, requests: list[GenerationRequest], done: dict[int, Completion]) -> np.ndarray:
    """How far below one card's best logit each chosen token lies, under the engine's own history."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to("cuda:0").eval()
    found = []
    for request in requests:
        output = done[request.id].output_ids
        ids = torch.from_numpy(np.concatenate([request.prompt_ids, output]).astype(np.int64))[None].to("cuda:0")
        with torch.inference_mode():
            logits = model(ids).logits[0, len(request.prompt_ids) - 1 : -1].float()
        chosen = logits.gather(-1, ids[0, len(request.prompt_ids) :, None])[:, 0]
        found.append(((logits.amax(-1) - chosen) / logits.std(-1)).cpu().numpy())
    return np.concatenate(found)


def test_the_shape_of_qwen3_06b_in_bfloat16(tmp_path: Path, store: Path) -> None:
    folder = write_model(tmp_path / "model", "qwen3", **QWEN_06B)
    requests = make_requests(*LENGTHS, 200, 33, max_new_tokens=48)
    (alone,) = on_one_card(folder, [requests], dtype="bfloat16")
    whole = weight_bytes(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16))
    problems: list[str] = []
    engine = load_ranks(folder, 2, store, problems, kind="cuda", dtype="bfloat16")
    try:
        assert engine.engine.runner.graphs is not None
        assert weight_bytes(engine.engine.model) < 0.51 * whole
        done = run_all(engine, requests)
    finally:
        let_go(engine)
    assert problems == []
    # bf16 sums in another order: a chosen token is the best one or next to it, in units of the spread of the logits
    gaps = gaps_below_the_best(folder, requests, done)
    assert gaps.max() < 0.5
    assert np.mean(gaps == 0) > 0.9
    first = [done[i].output_ids[0] == alone[i].output_ids[0] for i in alone]
    assert np.mean(first) > 0.6


def test_out_of_memory_on_one_card_ends_nothing(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "model", "llama", **WIDE)
    requests = mixed_requests()
    (want,) = on_one_card(folder, [requests], compile=False)
    # the first step prefills, as does the third, which starts everything again; the sixth replays a graph up to its
    # logits while the masks are made, and nothing but its sampler can fail
    monkeypatch.setenv("PARQUETRY_TEST_FAULTS", "layer:1,sampler:6")
    faulty = Path(__file__).parents[1] / "unit" / "workers" / "parallel"
    monkeypatch.setenv("PYTHONPATH", str(faulty), prepend=os.pathsep)
    monkeypatch.setattr("parquetry.workers.parallel.ranks.MODULE", "faulty_rank")
    problems: list[str] = []
    engine = load_ranks(folder, 2, store, problems, kind="cuda", compile=False)
    try:
        engine.engine.scheduler.token_budget = 1024
        assert outputs(run_all(engine, requests)) == outputs(want)
        assert engine.engine.runner.graphs is not None
        assert engine.stats()["out_of_memory"] == (2 if find_spec("llguidance") else 1)
    finally:
        let_go(engine)
    assert problems == []


def rank_of(engine_pid: int) -> int:
    """Process id of the engine's only other rank; a compiler's processes are its children too."""
    children = Path(f"/proc/{engine_pid}/task/{engine_pid}/children").read_text().split()
    (rank,) = [child for child in children if b"rank_process" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return int(rank)


def test_a_killed_rank_ends_the_engine_and_the_next_one_serves(tmp_path: Path, store: Path) -> None:
    folder = write_model(tmp_path / "model", "llama", **WIDE)
    supervisor = EngineSupervisor("cuda:0,1", store)
    supervisor.start()
    try:
        with EngineClient.connect(supervisor.socket, spec_of(folder)) as client:
            assert client.describe()["tensor_parallel"] == "2"
            client.submit(make_requests(*LENGTHS, max_new_tokens=200))
            os.kill(rank_of(supervisor.engine_pid), signal.SIGKILL)
            with pytest.raises(EngineLostError, match=r"rank 1 \(cuda:1\) was killed by SIGKILL"):
                for _ in range(600):
                    client.results(0.1)
        with EngineClient.connect(supervisor.socket, spec_of(folder)) as client:
            client.submit(make_requests(*LENGTHS))
            left = len(LENGTHS)
            while left:
                left -= len(client.results(1.0))
    finally:
        supervisor.stop()
