"""Tiny random models of every family the packed engine serves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.request import Completion, GenerationRequest, SamplingParams

VOCAB = 101
torch.set_num_threads(1)
BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MOE = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
SLIDING = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
GPT = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 128, "vocab_size": VOCAB}
MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12}

#: model type -> what its config needs beyond BASE
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 6},
    "ministral": {**SLIDING, "head_dim": 8},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {**MOE, "head_dim": 8},
    # these two draw their windows into the mask alone
    "qwen2_moe": {**MOE, **SLIDING, "use_sliding_window": True, "shared_expert_intermediate_size": 24},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6},
    "gemma": {"head_dim": 8},
    "gemma2": {**SLIDING, "head_dim": 8, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
    "gemma3_text": {**SLIDING, "head_dim": 8, "query_pre_attn_scalar": 8},
    "phi": {"num_key_value_heads": 4},
    "phi3": {},
    "gpt_neox": {},
    "gpt2": GPT,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "mixtral": MOE,
    "olmo2": {},
    "olmo3": SLIDING,
    "granite": {},
    "smollm3": {},
    "starcoder2": {"sliding_window": 6},
    "stablelm": {},
    "cohere": {},
    "gpt_oss": {**SLIDING, **MOE, "head_dim": 8},
    "glm4": {"head_dim": 8},
    "deepseek_v3": {**MLA, "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 2, "topk_group": 1,
                    "num_experts_per_tok": 2, "moe_intermediate_size": 24, "first_k_dense_replace": 1},
}  # fmt: skip

#: model type -> config of a family the hook cannot serve
REFUSED: dict[str, dict[str, Any]] = {
    "falcon": {},
    "bloom": {"n_head": 4, "n_layer": 2},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},
    "gptj": {**GPT, "rotary_dim": 4},
    # which keys a query sees depends on the values
    "doge": {"keep_window_size": 6},
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1},
}


def tiny_model(model_type: str, **changes: Any) -> PreTrainedModel:
    """A float32 model in eval mode whose weights are large enough for greedy choices with clear margins."""
    torch.manual_seed(0)
    extra = FAMILIES.get(model_type, REFUSED.get(model_type, {}))
    config = AutoConfig.for_model(model_type, **{**BASE, **extra, "initializer_range": 0.3, **changes})
    return AutoModelForCausalLM.from_config(config).eval()


def make_prompts(*lengths: int, seed: int = 0) -> list[np.ndarray]:
    """Random prompts without special tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(3, VOCAB, length).astype(np.int32) for length in lengths]


def make_requests(prompts: list[np.ndarray], **params: Any) -> list[GenerationRequest]:
    """One request per prompt, its row being its id."""
    sampling = SamplingParams(**params)
    return [GenerationRequest(id=i, row=i, prompt_ids=ids, params=sampling) for i, ids in enumerate(prompts)]


def run_all(engine: PackedEngine, requests: list[GenerationRequest]) -> dict[int, Completion]:
    """Serve the requests to the end, with the books checked after every step."""
    engine.add(requests)
    done: dict[int, Completion] = {}
    for _ in range(2000):
        if not engine.num_unfinished:
            return done
        done.update({completion.id: completion for completion in engine.step()})
        engine.check_integrity()
    raise AssertionError(f"{engine.num_unfinished} requests never finished")


def reference_outputs(model: PreTrainedModel, prompts: list[np.ndarray], max_new_tokens: int) -> list[list[int]]:
    """Greedy outputs of the model's own `generate`, one prompt at a time."""
    outputs = []
    for ids in prompts:
        batch = torch.from_numpy(ids.astype(np.int64))[None]
        with torch.inference_mode():
            out = model.generate(
                batch, attention_mask=torch.ones_like(batch), max_new_tokens=max_new_tokens, do_sample=False,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        outputs.append(out[0, len(ids) :].tolist())
    return outputs
