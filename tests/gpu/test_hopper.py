"""The kernel for prompts on Hopper cards gives attention in float32 over whole sequences, the same bits every time."""

from __future__ import annotations

import importlib.util
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from parquetry.workers.packed.attention.call import AttentionCall, AttentionSpec
from parquetry.workers.packed.attention.kv_cache import LayerShape
from parquetry.workers.packed.attention.sdpa import attend_segment, gather_blocks
from parquetry.workers.packed.checks.hopper_check import CHUNKS, is_hopper, random_call, use_hopper_kernel
from parquetry.workers.packed.checks.sharing_check import relative_error
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine

HAS_KERNEL = torch.cuda.is_available() and is_hopper(torch.device("cuda")) and importlib.util.find_spec("triton")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HAS_KERNEL, reason="there is no Hopper card"),
    pytest.mark.filterwarnings("default"),
]
SPECS = {
    "plain": AttentionSpec(0.1),
    "sliding window": AttentionSpec(0.1, sliding_window=90),
    "softcap": AttentionSpec(0.1, softcap=2.0),
    "sinks": AttentionSpec(0.1, sliding_window=200, sinks=torch.linspace(-1.0, 2.0, 8)),
}
#: rounding of the weights and of the output
TOLERANCE = {torch.bfloat16: 5e-3, torch.float16: 8e-4}


def make_call(spec: AttentionSpec, dim: int, block_size: int = 32, **shape: object) -> AttentionCall:
    """The check's chunks; what lies behind each sequence in its last block is no number."""
    sizes = {"num_heads": 8, "num_kv_heads": 2, "dtype": torch.bfloat16, **shape}
    layer = LayerShape(torch.nn.Identity(), key_dim=dim, value_dim=dim, **sizes)
    call = random_call(layer, block_size, torch.device("cuda"))
    for lane, length in enumerate(call.prefill.host_context_lens):
        block = int(call.step.tables[lane, (length - 1) // block_size])
        for cache in (call.k_cache, call.v_cache):
            cache[block, :, (length - 1) % block_size + 1 :] = float("nan")
    sinks = None if spec.sinks is None else spec.sinks.to("cuda", sizes["dtype"])
    return replace(call, spec=replace(spec, sinks=sinks))


def expected(call: AttentionCall) -> Tensor:
    outs, start = [], 0
    sinks = None if call.spec.sinks is None else call.spec.sinks.float()
    for lane, (count, before) in enumerate(CHUNKS):
        table = call.step.tables[lane, : -(-(count + before) // call.step.block_size)]
        k, v = (gather_blocks(c, table)[:, : count + before].transpose(0, 1) for c in (call.k_cache, call.v_cache))
        q = call.q[start : start + count]
        outs.append(attend_segment(q.float(), k.float(), v.float(), replace(call.spec, sinks=sinks)))
        start += count
    return torch.cat(outs)


def assert_right(call: AttentionCall) -> None:
    from parquetry.workers.packed.attention.kernels.hopper_prefill import hopper_prefill

    got = hopper_prefill(call)
    assert relative_error(got, expected(call)) < TOLERANCE[got.dtype]
    assert all(torch.equal(hopper_prefill(call), got) for _ in range(5))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_what_a_layer_may_ask_for(name: str, dim: int) -> None:
    assert_right(make_call(SPECS[name], dim))


@pytest.mark.parametrize("block_size", [8, 16, 64, 128, 256])
def test_blocks_smaller_and_larger_than_a_tile(block_size: int) -> None:
    assert_right(make_call(SPECS["plain"], 128, block_size))


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(7, 1), (4, 4), (12, 2)])
def test_groups_of_any_size_in_half_precision(num_heads: int, num_kv_heads: int) -> None:
    assert_right(make_call(SPECS["plain"], 128, num_heads=num_heads, num_kv_heads=num_kv_heads, dtype=torch.float16))


@pytest.mark.parametrize(("dim", "dtype"), [(96, torch.bfloat16), (128, torch.float32)])
def test_other_layers_get_the_general_kernel(dim: int, dtype: torch.dtype) -> None:
    from parquetry.workers.packed.attention.kernels.hopper_prefill import hopper_prefill
    from parquetry.workers.packed.attention.kernels.paged_prefill import paged_prefill

    call = make_call(SPECS["plain"], dim, dtype=dtype)
    assert torch.equal(hopper_prefill(call), paged_prefill(call))


def make_engine() -> PackedEngine:
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=512,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to("cuda", torch.bfloat16).eval()
    return PackedEngine(model, None, (), PackedOptions(num_blocks=64, compile=False, graphs=False))


def test_an_engine_takes_the_kernel_and_gives_it_back() -> None:
    from parquetry.workers.packed.attention.kernels.hopper_prefill import hopper_prefill
    from parquetry.workers.packed.attention.kernels.paged_prefill import paged_prefill

    engine = make_engine()
    backend = engine.components.backend
    assert backend.attend_chunks is hopper_prefill
    assert "Hopper's kernel for prompts" not in engine.components.taken_back
    engine.close()
    assert backend.attend_chunks is paged_prefill


def test_a_kernel_that_gives_other_results_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    wrong = "parquetry.workers.packed.attention.hopper_prefill.hopper_prefill"
    monkeypatch.setattr(wrong, lambda call: 2 * call.q)
    with ExitStack() as undo, pytest.raises(RuntimeError, match="it gives other results"):
        use_hopper_kernel(engine.runner.forward, engine.components.layers, undo)
    engine.close()
