"""What generation through vLLM must do on every device: run on a CPU by tests/vllm, on a card by tests/gpu."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.request import Completion, GenerationRequest, SamplingParams
from tests.vllm.models import WINDOW, write_adapter, write_generator

NUM_TOKENS = 16
#: how far below the best logit a chosen token may lie where the numbers are bfloat16
TIE = 0.25
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "stars": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["mood", "stars"],
    "additionalProperties": False,
}


def request(
    number: int, ids: Sequence[int], *, adapter: str | None = None, row: int = 0, **params
) -> GenerationRequest:
    params = {"max_new_tokens": NUM_TOKENS, **params}
    ids = np.asarray(ids, np.int32)
    return GenerationRequest(id=number, prompt_ids=ids, row=row, adapter=adapter, params=SamplingParams(**params))


def complete(engine: Engine, requests: Sequence[GenerationRequest]) -> dict[int, Completion]:
    engine.add(requests)
    done: dict[int, Completion] = {}
    while engine.num_unfinished:
        done.update({result.id: result for result in engine.step()})
    return done


class World:
    """The models on disk, one engine with two adapters, and the stock model to compare with."""

    def __init__(self, folder: Path, device: str) -> None:
        from parquetry.workers.vllm.loading import load_vllm

        self.device = device
        self.folder = write_generator(folder / "model")
        self.adapters = {
            name: str(write_adapter(self.folder, folder / name, seed=seed)) for seed, name in enumerate(("red", "blue"))
        }
        self.dtype = "float32" if device == "cpu" else "bfloat16"
        model = ModelSpec(id=str(self.folder), backend="vllm", dtype=self.dtype, adapters=self.adapters)
        self.spec = EngineSpec(task="generate", model_path=str(self.folder), model=model, device=device)
        self.engine = load_vllm(self.spec)
        self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self.eos_ids = Checkpoint.resolve(model).eos_ids
        self.stock = LlamaForCausalLM.from_pretrained(self.folder, dtype=getattr(torch, self.dtype)).eval()

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def logits(self, ids: Sequence[int], outputs: np.ndarray, model: torch.nn.Module | None = None) -> torch.Tensor:
        """(num_outputs, vocab_size) float32: what the stock model goes by, under the engine's own history."""
        row = torch.tensor([[*ids, *outputs.tolist()]])
        with torch.inference_mode():
            return (model or self.stock)(row).logits[0, len(ids) - 1 : -1].float()

    def require_greedy(self, ids: Sequence[int], outputs: np.ndarray, model: torch.nn.Module | None = None) -> None:
        """Every token is the likeliest one, or beside it in bfloat16."""
        logits = self.logits(ids, outputs, model)
        chosen = logits.gather(-1, torch.from_numpy(outputs.astype(np.int64))[:, None])[:, 0]
        gap = float((logits.amax(-1) - chosen).max())
        assert gap <= (1e-4 if self.dtype == "float32" else TIE * float(logits.std())), gap


TEXTS = ["the quick brown fox", "parquet files hold columns, and columns hold", "a", "good bad fine great terrible"]


@pytest.fixture(scope="class")
def world(request, tmp_path_factory) -> World:
    """Of the device that the test's class names."""
    return World(tmp_path_factory.mktemp("generation"), request.cls.device)


class GenerationSuite:
    device: str

    def test_greedy_rows_of_mixed_lengths_follow_the_stock_model(self, world):
        prompts = [world.ids(text) for text in TEXTS] + [world.ids(TEXTS[1] * 6)]
        done = complete(world.engine, [request(number, ids) for number, ids in enumerate(prompts)])
        assert {result.finish_reason for result in done.values()} <= {"stop", "length"}
        for number, ids in enumerate(prompts):
            world.require_greedy(ids, done[number].output_ids)

    def test_a_prompt_seen_before_is_answered_from_the_cache_and_alike(self, world):
        # a block has 128 tokens on a CPU
        ids = (world.ids(TEXTS[1]) * WINDOW)[: WINDOW // 2 + 50]
        before = world.engine.stats()["cached_tokens"]
        first, second = (complete(world.engine, [request(0, ids)])[0].output_ids for _ in range(2))
        assert world.engine.stats()["cached_tokens"] > before
        assert len(first) == len(second)
        world.require_greedy(ids, second)

    def test_a_stop_string_ends_a_row_and_its_token_is_kept(self, world):
        ids = world.ids(TEXTS[0])
        free = complete(world.engine, [request(0, ids)])[0].output_ids
        word = next(text for text in map(self.text_of(world), free[2:]) if text.strip())
        done = complete(world.engine, [request(0, ids, stop=(word,))])[0]
        assert done.finish_reason == "stop"
        text = world.tokenizer.decode(done.output_ids.tolist())
        assert word in text
        assert word not in world.tokenizer.decode(done.output_ids[:-1].tolist())

    @staticmethod
    def text_of(world):
        return lambda token: world.tokenizer.decode([int(token)])

    def test_a_stop_id_ends_a_row_and_is_no_part_of_it(self, world):
        ids = world.ids(TEXTS[0])
        free = complete(world.engine, [request(0, ids)])[0].output_ids.tolist()
        done = complete(world.engine, [request(0, ids, stop_ids=(free[3],))])[0]
        assert done.finish_reason == "stop"
        assert done.output_ids.tolist() == free[: free.index(free[3])]

    def test_logprobs_are_those_of_the_stock_model(self, world):
        ids = world.ids(TEXTS[1])
        done = complete(world.engine, [request(0, ids, logprobs=True, repetition_penalty=1.3)])[0]
        expected = world.logits(ids, done.output_ids).log_softmax(-1)
        expected = expected.gather(-1, torch.from_numpy(done.output_ids.astype(np.int64))[:, None])[:, 0]
        tolerance = 1e-3 if world.dtype == "float32" else 0.3
        np.testing.assert_allclose(done.logprobs, expected.numpy(), atol=tolerance)

    def test_a_sampled_row_does_not_depend_on_its_batch(self, world):
        ids = world.ids(TEXTS[0])
        drawn = {"temperature": 1.0, "top_p": 0.95, "seed": 7}
        alone = complete(world.engine, [request(0, ids, row=3, **drawn)])[0].output_ids
        beside = [request(number, world.ids(TEXTS[number % 4]), row=number, **drawn) for number in range(10, 18)]
        again = complete(world.engine, [*beside[:4], request(0, ids, row=3, **drawn), *beside[4:]])[0].output_ids
        other = complete(world.engine, [request(0, ids, row=4, **drawn)])[0].output_ids
        if world.dtype == "float32":
            assert alone.tolist() == again.tolist()
        assert alone.tolist() != other.tolist()

    def test_penalties_and_filters_are_followed(self, world):
        ids = world.ids(TEXTS[2])
        asked = [
            request(0, ids, temperature=1.0, top_k=1),
            request(1, ids, temperature=1.0, min_p=1.0),
            request(2, ids, presence_penalty=2.0, frequency_penalty=2.0, max_new_tokens=40),
            request(3, ids, repetition_penalty=5.0),
        ]
        done = complete(world.engine, asked)
        for number in (0, 1):
            world.require_greedy(ids, done[number].output_ids)
        free = complete(world.engine, [request(0, ids, max_new_tokens=40)])[0].output_ids
        for number in (2, 3):
            limit = len(done[number].output_ids)
            assert len(set(done[number].output_ids.tolist())) >= len(set(free[:limit].tolist()))

    def test_grammars(self, world):
        ids = world.ids(TEXTS[3])
        grammars = [{"json_schema": SCHEMA}, {"choices": ["good", "bad"]}, {"regex": "[0-9]{3}-[a-f]{2}"}]
        asked = [request(n, ids, grammar=json.dumps(g), max_new_tokens=60) for n, g in enumerate(grammars)]
        done = complete(world.engine, asked)
        texts = [world.tokenizer.decode(done[number].output_ids.tolist()) for number in range(3)]
        assert json.loads(texts[0])["mood"] in ("good", "bad")
        assert " " not in texts[0]
        assert texts[1] in ("good", "bad")
        assert len(texts[2]) == 6 and texts[2][3] == "-"
        assert {result.finish_reason for result in done.values()} == {"stop"}

    def test_adapters_by_row(self, world):
        from peft import PeftModel

        ids = world.ids(TEXTS[1])
        names = [None, "red", "blue", "red"]
        done = complete(world.engine, [request(n, ids, adapter=name) for n, name in enumerate(names)])
        assert done[1].output_ids.tolist() == done[3].output_ids.tolist()
        assert len({tuple(done[number].output_ids.tolist()) for number in range(3)}) == 3
        world.require_greedy(ids, done[0].output_ids)
        for number, name in ((1, "red"), (2, "blue")):
            base = LlamaForCausalLM.from_pretrained(world.folder, dtype=getattr(torch, world.dtype))
            merged = PeftModel.from_pretrained(base, world.adapters[name]).merge_and_unload().eval()
            world.require_greedy(ids, done[number].output_ids, merged)

    def test_what_cannot_be_answered_is_an_error_row_and_the_others_go_on(self, world):
        good = world.ids(TEXTS[0])
        asked = [
            request(0, []),
            request(1, [10_000_000]),
            request(2, [5] * (WINDOW + 1)),
            request(3, good, adapter="green"),
            request(4, good, grammar=json.dumps({"json_schema": {"type": "object", "minProperties": "two"}})),
            request(5, good),
        ]
        done = complete(world.engine, asked)
        assert len(done) == 6
        assert done[5].error is None
        for number, word in enumerate(("no tokens", "does not know", "tokens", "green")):
            assert word in done[number].error
            assert "\n" not in done[number].error
        assert done[4].error and len(done[4].error) < 320

    def test_a_row_that_reaches_the_end_of_the_window_ends_there(self, world):
        ids = [5] * (WINDOW - 4)
        done = complete(world.engine, [request(0, ids, max_new_tokens=50)])[0]
        assert done.finish_reason in ("length", "stop")
        assert len(done.output_ids) <= 5

    def test_cancelled_rows_do_not_come_back(self, world):
        ids = world.ids(TEXTS[0])
        world.engine.add([request(number, ids, max_new_tokens=200) for number in range(8)])
        world.engine.step()
        world.engine.step()
        told = list(world.engine.under_way())
        assert {row.id for row in told} <= set(range(8)) and told
        world.engine.cancel([0, 1, 2, 3, 99])
        assert world.engine.num_unfinished == 4
        done = complete(world.engine, [])
        assert set(done) == {4, 5, 6, 7}
        assert world.engine.num_unfinished == 0

    def test_out_of_memory_in_a_step_starts_the_rows_again(self, world, monkeypatch):
        ids = world.ids(TEXTS[1])
        expected = complete(world.engine, [request(0, ids)])[0].output_ids
        executor, failures = world.engine._core.model_executor, iter([True])
        execute = executor.execute_model

        def fail_once(*given, **named):
            if next(failures, False):
                raise torch.OutOfMemoryError("out of memory, as a card says it")
            return execute(*given, **named)

        monkeypatch.setattr(executor, "execute_model", fail_once)
        budget = world.engine._scheduler.max_num_scheduled_tokens
        done = complete(world.engine, [request(number, ids) for number in range(3)])
        assert {tuple(result.output_ids.tolist()) for result in done.values()} == {tuple(expected.tolist())}
        assert world.engine._scheduler.max_num_scheduled_tokens == budget // 2
        assert world.engine.stats()["out_of_memory"] == 1
        world.engine._scheduler.max_num_scheduled_tokens = budget

    def test_it_says_what_it_is_and_counts_what_it_does(self, world):
        about = world.engine.describe()
        assert (about["backend"], about["dtype"]) == ("vllm", world.dtype)
        assert about["vllm"][0].isdigit()
        assert "seed" in about["sampling"]
        before = world.engine.stats()
        ids = world.ids(TEXTS[0])
        made = complete(world.engine, [request(0, ids)])[0].output_ids
        after = world.engine.stats()
        assert after["prompt_tokens"] - before["prompt_tokens"] == len(ids)
        assert 0 <= after["output_tokens"] - before["output_tokens"] - len(made) <= 1
        assert (after["running"], after["waiting"]) == (0, 0)
