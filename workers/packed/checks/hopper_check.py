"""Before prompts go through the kernel for Hopper cards: the same chunks as through the general one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch

from parquetry.workers.packed.attention.call import AttentionCall, AttentionSpec, AttentionStep, PrefillTensors
from parquetry.workers.packed.attention.kv_cache import LayerShape
from parquetry.workers.packed.checks.sharing_check import TOLERANCE, relative_error
from parquetry.workers.packed.forward import Forward

#: tokens of each chunk, and those before it: alone, over the end of a block, and over many tiles
CHUNKS = ((1, 0), (70, 33), (300, 900))


def is_hopper(device: torch.device) -> bool:
    """Whether the device has the instructions that the kernel is made of. Some AMD cards have the same number."""
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    return is_nvidia and torch.cuda.get_device_capability(device) == (9, 0)


def has_hopper_kernel(forward: Forward, layers: Sequence[LayerShape]) -> bool:
    """Whether the kernel could compute prompts of some of `layers`. Triton is installed."""
    if not is_hopper(forward.device_lanes.device):
        return False
    from parquetry.workers.packed.attention.kernel_backends import TritonBackend

    return isinstance(forward.backend, TritonBackend) and served_layer(forward, layers) is not None


def served_layer(forward: Forward, layers: Sequence[LayerShape]) -> LayerShape | None:
    """The first layer that the kernel serves."""
    from parquetry.workers.packed.attention.kernels.hopper_prefill import can_attend

    size = forward.device_lanes.block_size
    return next((x for x in layers if can_attend(x.dtype, x.key_dim, x.value_dim, size)), None)


def use_hopper_kernel(forward: Forward, layers: Sequence[LayerShape], undo: ExitStack) -> None:
    """Give the prompts to the kernel. Raises RuntimeError where it cannot be built or gives other results."""
    from triton.errors import TritonError

    from parquetry.workers.packed.attention.kernel_backends import TritonBackend
    from parquetry.workers.packed.attention.kernels.hopper_prefill import hopper_prefill
    from parquetry.workers.packed.attention.kernels.paged_prefill import paged_prefill

    backend, layer = forward.backend, served_layer(forward, layers)
    assert isinstance(backend, TritonBackend) and layer is not None
    call = random_call(layer, forward.device_lanes.block_size, forward.device_lanes.device)
    try:
        error = relative_error(hopper_prefill(call), paged_prefill(call))
    except TritonError as problem:
        raise RuntimeError(f"this release of Triton does not build it: {problem}") from problem
    if error > TOLERANCE[layer.dtype]:
        raise RuntimeError(f"it gives other results, relative error {error:.3g}")
    undo.callback(setattr, backend, "attend_chunks", backend.attend_chunks)
    backend.attend_chunks = hopper_prefill


def random_call(layer: LayerShape, block_size: int, device: torch.device) -> AttentionCall:
    """`CHUNKS` of one layer: random queries, keys and values, in blocks that lie in no order."""
    generator = torch.Generator(device=device).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=layer.dtype)

    step, blocks = chunk_step(block_size, device)
    num_tokens = sum(count for count, _ in CHUNKS)
    k_cache, v_cache = random_keys(layer, random, blocks, block_size)
    k, v = random_keys(layer, random, num_tokens)
    q = random(num_tokens, layer.num_heads, layer.key_dim)
    spec = AttentionSpec(layer.key_dim**-0.5, values_in_keys=layer.values_in_keys)
    return AttentionCall(q, k, v, k_cache, v_cache, step, spec)


def random_keys(
    layer: LayerShape, random: Callable[..., torch.Tensor], count: int, *inner: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values (count, num_kv_heads, *inner, dim) as the layer has them."""
    k = random(count, layer.num_kv_heads, *inner, layer.key_dim)
    if layer.values_in_keys:
        return k, k[..., : layer.value_dim]
    return k, random(count, layer.num_kv_heads, *inner, layer.value_dim)


def chunk_step(block_size: int, device: torch.device) -> tuple[AttentionStep, int]:
    """The step of `CHUNKS`, and how many blocks it reads."""
    query_lens, contexts = [count for count, _ in CHUNKS], [sum(chunk) for chunk in CHUNKS]
    width = -(-max(contexts) // block_size)
    order = torch.randperm(len(CHUNKS) * width, generator=torch.Generator().manual_seed(0))
    tables = order.view(len(CHUNKS), width).to(device, torch.int32)
    cu_seqlens = torch.tensor([0, *query_lens], device=device).cumsum(0).int()
    lens = torch.tensor(contexts, dtype=torch.int32, device=device)
    lanes = torch.arange(len(CHUNKS), dtype=torch.int32, device=device)
    chunks = PrefillTensors(cu_seqlens, max(query_lens), lens, lanes, False, query_lens, contexts)
    slots = torch.empty(0, dtype=torch.int64, device=device)
    return AttentionStep(slots, tables, block_size, 0, lanes[:0], lens[:0], chunks), order.numel()
