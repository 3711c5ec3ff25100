"""Tiny models whose heads two or four ranks can share, as folders, and how engines over them are made and run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.grammar.grammar import Grammar
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.hosting.group_loading import load_device_group
from parquetry.workers.hosting.leading import LeadingEngine
from parquetry.workers.request import Completion, GenerationRequest, SamplingParams
from tests.models import byte_tokenizer

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 0,
    # sharp enough that the likeliest token is never a matter of rounding
    "initializer_range": 0.3,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_key_value_heads": 4}
LENGTHS = (3, 17, 40, 1, 9, 100, 80)


def write_model(folder: Path, model_type: str, **changes: Any) -> Path:
    """A float32 model with random weights and a byte tokenizer."""
    tokenizer = byte_tokenizer(chat=True)
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**SIZES, "vocab_size": len(tokenizer), **changes})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def spec_of(folder: Path, device: str = "cpu", **model: Any) -> EngineSpec:
    """Steps of at most 64 tokens, so that long prompts come in chunks."""
    chosen = ModelSpec(id=str(folder), **{"dtype": "float32", **model})
    return EngineSpec(task="generate", model_path=str(folder), model=chosen, device=device, token_budget=64)


def load_one(folder: Path, device: str = "cpu", **model: Any) -> Engine:
    """The engine of one device, which says what is right."""
    return load_engine(spec_of(folder, device, **model))


def load_ranks(
    folder: Path, size: int, store: Path, problems: list[str], *, kind: str = "cpu", **model: Any
) -> LeadingEngine:
    """The same over `size` ranks; what would end the process goes to `problems`."""
    spec = spec_of(folder, f"{kind}:{','.join(map(str, range(size)))}", **model)
    engine = load_device_group(spec, store, lambda reason, permanent: problems.append(reason))
    assert isinstance(engine, LeadingEngine), engine.provenance_notes
    return engine


def make_requests(*lengths: int, **params: Any) -> list[GenerationRequest]:
    """One request a length, its row being its id."""
    rng = np.random.default_rng(0)
    sampling = SamplingParams(**{"max_new_tokens": 20, **params})
    prompts = [rng.integers(4, 300, length).astype(np.int32) for length in lengths]
    return [GenerationRequest(id=i, row=i, prompt_ids=ids, params=sampling) for i, ids in enumerate(prompts)]


def mixed_requests() -> list[GenerationRequest]:
    """Every other row follows a grammar, so that steps have token masks."""
    grammar = Grammar("regex", "[a-f]{3}-[0-9]{9,12}").text if find_spec("llguidance") else None
    free, bound = make_requests(*LENGTHS, temperature=0.7), make_requests(*LENGTHS, temperature=0.7, grammar=grammar)
    return [free[i] if i % 2 else bound[i] for i in range(len(free))]


def run_all(engine: Engine, requests: list[GenerationRequest]) -> dict[int, Completion]:
    """Serve the requests to the end."""
    engine.add(requests)
    done: dict[int, Completion] = {}
    while engine.num_unfinished:
        done.update({completion.id: completion for completion in engine.step()})
    return done


def outputs(done: dict[int, Completion]) -> list[list[int]]:
    assert [done[i].error for i in sorted(done) if done[i].error] == []
    return [done[i].output_ids.tolist() for i in sorted(done)]


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the weights that this rank holds; tied ones count once."""
    return sum(parameter.nbytes for parameter in model.parameters())
