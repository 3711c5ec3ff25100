"""The Triton kernels against the reference backend: on a CUDA device, else in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.unit.workers.fusing.triton_device import require_triton

DEVICE = require_triton()

from parquetry.workers.grammar.bitmask import apply_bitmask  # noqa: E402
from parquetry.workers.grammar.bitmask_kernel import mask_on_gpu  # noqa: E402
from parquetry.workers.noise import request_key  # noqa: E402
from parquetry.workers.packed.attention.call import (  # noqa: E402
    AttentionCall,
    AttentionSpec,
    AttentionStep,
    PrefillTensors,
    SharedKeys,
)
from parquetry.workers.packed.attention.kernel_backends import TritonBackend  # noqa: E402
from parquetry.workers.packed.attention.sdpa import SdpaBackend, attend_segment, gather_blocks, to_stored  # noqa: E402
from parquetry.workers.packed.sampling.race import Draw, race_in_torch, race_on_gpu  # noqa: E402

#: the interpreter computes with numpy, which warns of what kernels do on purpose, such as log(0)
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}:triton.runtime.interpreter")
    for kind in ("DeprecationWarning", "RuntimeWarning")
]
LENS = [1, 70, 33, 150]
FLOAT8 = torch.float8_e4m3fn
SPECS = {
    "plain": AttentionSpec(0.25),
    "window": AttentionSpec(0.25, sliding_window=20),
    "softcap": AttentionSpec(0.25, softcap=2.0),
    "sinks": AttentionSpec(0.25, sliding_window=40, sinks=torch.tensor([0.3, -1.0, 2.0, 0.0])),
}


def on_device(spec: AttentionSpec) -> AttentionSpec:
    sinks = None if spec.sinks is None else spec.sinks.to(DEVICE)
    return AttentionSpec(spec.scale, spec.sliding_window, spec.softcap, sinks)


def make_step(block_size: int, query_lens: list[int] | None, lens: list[int] = LENS) -> AttentionStep:
    """Decodes, or chunks of `query_lens`, of sequences of `lens` tokens whose blocks are scattered."""
    n, width = len(lens), -(-max(lens) // block_size)
    order = torch.randperm(n * width, generator=torch.Generator().manual_seed(1))
    tables = order.view(n, width).to(DEVICE, torch.int32)
    lanes = torch.arange(n - 1, -1, -1, dtype=torch.int32, device=DEVICE)
    context = torch.tensor(lens, dtype=torch.int32, device=DEVICE)
    slots = torch.empty(0, dtype=torch.int64, device=DEVICE)
    if query_lens is None:
        last = context.long() - 1
        slots = tables[lanes.long(), last // block_size].long() * block_size + last % block_size
        return AttentionStep(slots, tables, block_size, n, lanes, context)
    cu = torch.tensor([0, *query_lens]).cumsum(0).to(DEVICE, torch.int32)
    prefill = PrefillTensors(cu, max(query_lens), context, lanes, False, query_lens, lens)
    return AttentionStep(slots, tables, block_size, 0, lanes[:0], context[:0], prefill)


def make_caches(step: AttentionStep, key_dim: int, value_dim: int, kv_heads: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    count = step.tables.numel()
    shapes = [(count, kv_heads, step.block_size, dim) for dim in (key_dim, value_dim)]
    return [torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes]


def make_q(num_tokens: int, key_dim: int) -> torch.Tensor:
    """(num_tokens, 4, key_dim) with the strides the hook meets: heads outermost."""
    q = torch.randn(4, num_tokens, key_dim, generator=torch.Generator().manual_seed(3))
    return q.to(DEVICE).transpose(0, 1)


def make_new(num_tokens: int, *dims: int) -> list[torch.Tensor]:
    """New keys and values, (num_tokens, 2, dim) each, heads outermost as well."""
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(2, num_tokens, dim, generator=generator).to(DEVICE).transpose(0, 1) for dim in dims]


def assert_decodes_equal(block_size: int, dims: tuple[int, int], spec: AttentionSpec) -> None:
    """Both backends give the same output, and leave the same in the cache."""
    step, caches = make_step(block_size, None), make_caches(make_step(block_size, None), *dims)
    new = make_q(len(LENS), dims[0]), *make_new(len(LENS), *dims)
    wanted_caches = [cache.clone() for cache in caches]
    want = SdpaBackend().decode(AttentionCall(*new, *wanted_caches, step, on_device(spec)))
    got = TritonBackend().decode(AttentionCall(*new, *caches, step, on_device(spec)))
    assert torch.allclose(got, want, atol=1e-4)
    assert all(torch.equal(*pair) for pair in zip(caches, wanted_caches, strict=True))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("block_size", "dims"), [(16, (16, 16)), (64, (24, 16)), (128, (32, 32))])
def test_decode_equals_the_reference(name: str, block_size: int, dims: tuple[int, int]) -> None:
    assert_decodes_equal(block_size, dims, SPECS[name])


def test_decode_without_splits_equals_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parquetry.workers.packed.attention.kernels.paged_decode.MAX_SPLITS", 1)
    for spec in SPECS.values():
        assert_decodes_equal(32, (16, 16), spec)


def latent_call(step: AttentionStep, num_heads: int, rank: int, turned: int, num_tokens: int) -> AttentionCall:
    """Queries of `num_heads` against latents, whose first `rank` numbers are the values."""
    (cache, _), ((k, _),) = make_caches(step, rank + turned, 1, 1), (make_new(num_tokens, rank + turned, 1),)
    q = torch.randn(num_tokens, num_heads, rank + turned, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    spec = AttentionSpec(0.2, values_in_keys=True)
    return AttentionCall(q, k[:, :1], k[:, :1, :rank], cache, cache[..., :rank], step, spec)


def with_own_cache(call: AttentionCall) -> AttentionCall:
    cache = call.k_cache.clone()
    return replace(call, k_cache=cache, v_cache=cache[..., : call.v.shape[2]])


#: heads that fill a program, that are fewer, and that need two; ranks that are a power of two, and not
LATENTS = {"whole": (16, 32, 16), "few heads": (5, 32, 8), "many heads": (70, 24, 4)}


@pytest.mark.parametrize("name", LATENTS)
@pytest.mark.parametrize("splits", [1, 16])
def test_decodes_of_latents_equal_the_reference(name: str, splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parquetry.workers.packed.attention.kernels.paged_latent.MAX_SPLITS", splits)
    call = latent_call(make_step(32, None), *LATENTS[name], len(LENS))
    other = with_own_cache(call)
    want, got = SdpaBackend().decode(other), TritonBackend().decode(call)
    assert torch.allclose(got, want, atol=1e-4)
    assert torch.equal(call.k_cache, other.k_cache)


@pytest.mark.parametrize("name", LATENTS)
def test_chunks_of_latents_equal_the_reference(name: str) -> None:
    """The last tokens of three sequences, and a whole one; new keys are in the cache already."""
    lens = [1, 7, 33, 20]
    call = latent_call(make_step(16, lens), *LATENTS[name], sum(lens))
    assert torch.allclose(TritonBackend().prefill(call), chunks_from_cache(call), atol=1e-4)


def chunks_from_cache(call: AttentionCall) -> torch.Tensor:
    outs = []
    for chunk, (start, length) in enumerate(
        zip(call.prefill.cu_seqlens.tolist(), call.prefill.query_lens, strict=False)
    ):
        context = call.prefill.host_context_lens[chunk]
        table = call.step.tables[call.prefill.lanes[chunk].long(), : -(-context // call.step.block_size)]
        k, v = (gather_blocks(cache, table)[:, :context].transpose(0, 1) for cache in (call.k_cache, call.v_cache))
        outs.append(attend_segment(call.q[start : start + length], k, v, call.spec))
    return torch.cat(outs)


def make_shared_step(block_size: int, groups: list[tuple[int, int]], num_alone: int) -> AttentionStep:
    """Decodes of groups of (rows, blocks they share), one group after the other, and of some that share nothing."""
    own, lens, tables, tiles, shared = 3, [], [], [], []
    next_block = sum(count for _, count in groups)
    first = 0
    for rows, count in [*groups, (num_alone, 0)]:
        common = list(range(first, first + count))
        first += count
        tiles += [(len(lens) + at, min(32, rows - at)) for at in range(0, rows, 32) if count]
        for row in range(rows):
            tables.append([*common, *range(next_block, next_block + own)])
            next_block += own
            lens.append(count * block_size + 1 + (7 * row) % (own * block_size))
            shared.append(count * block_size)
    width = max(map(len, tables))
    table = torch.tensor([row + [0] * (width - len(row)) for row in tables], dtype=torch.int32, device=DEVICE)
    context = torch.tensor(lens, dtype=torch.int32, device=DEVICE)
    lanes = torch.arange(len(lens), dtype=torch.int32, device=DEVICE)
    last = context.long() - 1
    slots = table[lanes.long(), last // block_size].long() * block_size + last % block_size
    # one tile more than there are groups: a grid that was captured has room for more
    starts, counts = (torch.tensor([*x, 0], dtype=torch.int32, device=DEVICE) for x in zip(*tiles, strict=True))
    keys = SharedKeys(torch.tensor(shared, dtype=torch.int32, device=DEVICE), starts, counts)
    return AttentionStep(slots, table, block_size, len(lens), lanes, context, shared=keys)


@pytest.mark.parametrize("name", ["plain", "softcap", "sinks", "window"])
@pytest.mark.parametrize(("block_size", "dims", "kv_heads"), [(16, (16, 16), 2), (32, (24, 16), 4), (64, (32, 32), 1)])
def test_shared_prefixes_change_nothing(name: str, block_size: int, dims: tuple[int, int], kv_heads: int) -> None:
    """Four query heads: one, two and four for each key-value head."""
    step, spec = make_shared_step(block_size, [(35, 3), (8, 1)], 2), on_device(SPECS[name])
    generator = torch.Generator().manual_seed(2)
    blocks = int(step.tables.max()) + 1
    shapes = [(blocks, kv_heads, block_size, dim) for dim in dims]
    caches = [torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes]
    k, v = (torch.randn(kv_heads, 45, dim, generator=generator).to(DEVICE).transpose(0, 1) for dim in dims)
    new = make_q(45, dims[0]), k, v
    wanted_caches = [cache.clone() for cache in caches]
    want = SdpaBackend().decode(AttentionCall(*new, *wanted_caches, step, spec))
    got = TritonBackend().decode(AttentionCall(*new, *caches, step, spec))
    assert torch.allclose(got, want, atol=1e-4)
    assert all(torch.equal(*pair) for pair in zip(caches, wanted_caches, strict=True))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("block_size", "dims"), [(16, (16, 16)), (64, (24, 16))])
def test_prefill_equals_the_reference(name: str, block_size: int, dims: tuple[int, int]) -> None:
    query_lens = [1, 40, 33, 65]
    step, spec = make_step(block_size, query_lens), on_device(SPECS[name])
    caches, q = make_caches(step, *dims), make_q(sum(query_lens), dims[0])
    fresh = make_caches(make_step(block_size, query_lens), *dims)
    keys, values = (gather_new(cache, step, query_lens) for cache in fresh)
    call = AttentionCall(q, keys, values, *caches, step, spec)
    got, want = TritonBackend().prefill(call), SdpaBackend().prefill(call)
    assert torch.allclose(got, want, atol=1e-4)


def gather_new(cache: torch.Tensor, step: AttentionStep, query_lens: list[int]) -> torch.Tensor:
    """The keys or values of the chunks themselves, as the model would pass them."""
    parts = []
    for lane, count, length in zip(step.prefill.lanes.tolist(), query_lens, LENS, strict=True):
        at = torch.arange(length - count, length, device=cache.device)
        parts.append(cache[step.tables[lane, at // step.block_size].long(), :, at % step.block_size])
    return torch.cat(parts)


def in_float8(call: AttentionCall) -> AttentionCall:
    """The call over caches in float8, of keys and values that lose nothing there."""
    k, v = (to_stored(x, FLOAT8).to(x.dtype) for x in (call.k, call.v))
    k_cache, v_cache = (to_stored(cache, FLOAT8) for cache in (call.k_cache, call.v_cache))
    return replace(call, k=k, v=v, k_cache=k_cache, v_cache=v_cache)


@pytest.mark.parametrize("most_wide", [0, 131072])
def test_prompts_over_keys_in_float8_equal_the_reference(most_wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parquetry.workers.packed.attention.kernels.widening.MAX_TOKENS", most_wide)
    query_lens = [1, 40, 33, 65]
    step = make_step(16, query_lens)
    caches, fresh = make_caches(step, 24, 16), make_caches(step, 24, 16)
    keys, values = (gather_new(cache, step, query_lens) for cache in fresh)
    call = in_float8(AttentionCall(make_q(sum(query_lens), 24), keys, values, *caches, step, SPECS["plain"]))
    assert torch.allclose(TritonBackend().prefill(call), SdpaBackend().prefill(call), atol=1e-4)


def test_decodes_over_keys_in_float8_equal_the_reference() -> None:
    step = make_step(32, None)
    new = make_q(len(LENS), 16), *make_new(len(LENS), 16, 16)
    call = in_float8(AttentionCall(*new, *make_caches(step, 16, 16), step, SPECS["plain"]))
    call.v[0, 0, 0] = 1000.0
    other = replace(call, k_cache=call.k_cache.clone(), v_cache=call.v_cache.clone())
    got, want = TritonBackend().decode(call), SdpaBackend().decode(other)
    # the kernel attends to the new token as it is, the reference to what is kept of it
    assert torch.allclose(got[1:], want[1:], atol=1e-4)
    for mine, reference in ((call.k_cache, other.k_cache), (call.v_cache, other.v_cache)):
        assert torch.equal(mine.float(), reference.float())
    assert float(call.v_cache.float().max()) == 448.0


def test_store_writes_only_its_slots() -> None:
    k_cache, v_cache = make_caches(make_step(16, None), 24, 16)
    k, v = (torch.randn(2, 3, dim, device=DEVICE).transpose(0, 1) for dim in (24, 16))
    slots = torch.tensor([5, 16, 40], device=DEVICE)
    wanted = k_cache.clone(), v_cache.clone()
    step = replace(make_step(16, None), slot_mapping=slots)
    SdpaBackend().write(AttentionCall(k, k, v, *wanted, step, SPECS["plain"]))
    TritonBackend().write(AttentionCall(k, k, v, k_cache, v_cache, step, SPECS["plain"]))
    assert torch.equal(k_cache, wanted[0]) and torch.equal(v_cache, wanted[1])


@pytest.mark.parametrize("is_filtered", [False, True])
def test_races_equal_the_reference(is_filtered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parquetry.workers.packed.sampling.race_kernels.TILE", 256)
    scores = torch.randn(6, 1000, generator=torch.Generator().manual_seed(0)) * 3
    draw = Draw(
        temperature=torch.tensor([1.0, 0.7, 0.0, 1.5, 1.0, 0.5]),
        top_k=torch.tensor([0, 5, 3, 50, 2000, 7]),
        top_p=torch.tensor([1.0, 0.9, 0.5, 1.0, 0.8, 0.95]),
        min_p=torch.tensor([0.0, 0.0, 0.0, 0.1, 0.01, 0.0]),
        keys=torch.tensor([request_key(0, row, 0) for row in range(6)]),
        positions=torch.arange(6) + 7,
        is_filtered=is_filtered,
    )
    there = Draw(**{name: x.to(DEVICE) if torch.is_tensor(x) else x for name, x in vars(draw).items()})
    assert torch.equal(race_on_gpu(scores.to(DEVICE), there).cpu(), race_in_torch(scores, draw))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bitmasks_on_the_gpu_are_those_of_torch(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    # a vocabulary that ends within a word and within a tile; a mask that is wider; rows that are not neighbours
    logits = torch.randn(6, 5000, generator=generator).to(dtype)[::2, :4999]
    masks = torch.randint(-(2**31), 2**31 - 1, (3, 160), generator=generator, dtype=torch.int64).to(torch.int32)
    masks[1] = -1
    found = mask_on_gpu(logits.to(DEVICE), masks.to(DEVICE)).cpu()
    assert torch.equal(found, apply_bitmask(logits, masks))
    assert torch.equal(found[1], logits[1])
    assert 0.3 < found[0].isinf().float().mean() < 0.7
