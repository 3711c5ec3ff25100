"""The one hook under stock transformers classes: keys and values go to paged blocks, a backend does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

IMPLEMENTATION = "parquetry_packed"


@dataclass(frozen=True)
class AttentionSpec:
    """What one layer asks of its attention besides q, k and v."""

    scale: float
    #: keys a query may see, itself included; 0 means all
    window: int = 0
    #: scores become softcap * tanh(scores / softcap); 0 means off
    softcap: float = 0.0
    #: (num_heads,) logits of a key that has no value
    sinks: Tensor | None = None


@dataclass
class PrefillTensors:
    """The chunks of a step, behind its decodes. Tensors are int32 on the device, lists are on the host."""

    #: (num_chunks + 1,) offsets into the chunk tokens, and the longest chunk
    cu_seqlens: Tensor
    max_seqlen: int
    #: (num_chunks,) tokens each chunk attends to, its own included
    context_lens: Tensor
    #: (num_chunks,) lanes, which are rows of `AttentionStep.tables`
    lanes: Tensor
    #: True when no chunk has anything before it: keys need not be read back from the blocks
    is_fresh: bool
    query_lens: list[int]
    host_context_lens: list[int]


@dataclass
class SharedKeys:
    """First keys that decodes have in common, as `SharedPrefix` says it on the host; int32 on the device."""

    #: (num_decodes,) tokens each decode shares with its tile, 0 for those that share nothing
    lens: Tensor
    #: (num_tiles,) first decode of each tile, and how many follow it; a tile of none is left out
    starts: Tensor
    counts: Tensor


@dataclass
class AttentionStep:
    """Where the tokens of the step that is being computed live."""

    #: (num_tokens,) int64, slot of each token in the flattened cache
    slot_mapping: Tensor
    #: (num_lanes + 1, max_blocks) int32
    tables: Tensor
    block_size: int
    num_decodes: int
    #: (num_decodes,) lanes, and tokens each decode attends to, its own included
    decode_lanes: Tensor
    decode_lens: Tensor
    prefill: PrefillTensors | None = None
    #: for backends that can read it once; the others read it for every decode
    shared: SharedKeys | None = None


class AttentionBackend(ABC):
    """Computes attention over paged blocks. Caches are (num_blocks, num_kv_heads, block_size, head_dim)."""

    name: str
    #: tokens per block the backend reads best
    block_size: int = 16
    #: whether decodes of one step read what they share only once, for blocks of a multiple of 16 tokens
    shares_prefixes: bool = False
    #: whether a part of a prompt is attended as fast as a whole one
    cuts_prompts_freely: bool = False

    @abstractmethod
    def write(self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
        """Store k and v (num_tokens, num_kv_heads, head_dim) at their slots."""

    @abstractmethod
    def decode(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        step: AttentionStep,
        spec: AttentionSpec,
    ) -> Tensor:
        """Store k and v, and attend to them and all before; q, k, v (num_decodes, heads, head_dim), one token each.

        Returns (num_decodes, num_heads, value_dim).
        """

    @abstractmethod
    def prefill(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        step: AttentionStep,
        spec: AttentionSpec,
    ) -> Tensor:
        """Attend to k and v, which are stored already, and all before; q, k, v (num_chunk_tokens, heads, head_dim).

        Returns (num_chunk_tokens, num_heads, value_dim).
        """


class _Current:
    """The step being computed. One engine drives one device from one thread, so there is one at a time."""

    step: AttentionStep | None = None
    backend: AttentionBackend | None = None
    recorder: Any = None


@contextmanager
def computing(backend: AttentionBackend, step: AttentionStep) -> Iterator[None]:
    """Make the hook serve `step` through `backend`."""
    _Current.backend, _Current.step = backend, step
    try:
        yield
    finally:
        _Current.backend = _Current.step = None


@contextmanager
def recording(recorder: Any) -> Iterator[None]:
    """Make the hook hand every call to `recorder(module, q, k, v, spec)`, which returns the output."""
    _Current.recorder = recorder
    try:
        yield
    finally:
        _Current.recorder = None


def attend(q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, spec: AttentionSpec) -> Tensor:
    """q, k, v (num_tokens, heads, head_dim) of the current step; returns (num_tokens, num_heads, value_dim)."""
    backend, step = _Current.backend, _Current.step
    assert backend is not None and step is not None, "the packed hook ran outside a step"
    n = step.num_decodes
    parts = []
    if n:
        parts.append(backend.decode(q[:n], k[:n], v[:n], k_cache, v_cache, step, spec))
    if step.prefill is not None:
        # all of them first: a chunk may read what another one of this step computes
        backend.write(k[n:], v[n:], k_cache, v_cache, step.slot_mapping[n:])
        parts.append(backend.prefill(q[n:], k[n:], v[n:], k_cache, v_cache, step, spec))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


# The op hides the caches' mutation on purpose: nothing else in a compiled layer touches them, and declaring it would
# make functionalization copy them.
@torch.library.custom_op("parquetry::packed_attention", mutates_args=())
def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    sinks: Tensor | None,
    scale: float,
    window: int,
    softcap: float,
) -> Tensor:
    """`attend` as an opaque operator, for compiled layers."""
    out = attend(q, k, v, k_cache, v_cache, AttentionSpec(scale, window, softcap, sinks))
    return out.contiguous()


@packed_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_: object) -> Tensor:
    return q.new_empty((q.shape[0], q.shape[1], v.shape[2]))


def hook(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """query, key, value (1, heads, num_tokens, head_dim); returns (1, num_tokens, num_heads, value_dim)."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    scale = float(scaling) if scaling is not None else q.shape[-1] ** -0.5
    # what the stock masks show, where they have been read, else what the class says
    window = int(getattr(module, "packed_window", sliding_window) or 0)
    softcap = float(softcap or 0.0)
    if torch.compiler.is_compiling():
        op = torch.ops.parquetry.packed_attention
        return op(q, k, v, module.packed_keys, module.packed_values, s_aux, scale, window, softcap)[None], None
    spec = AttentionSpec(scale, window, softcap, s_aux)
    if _Current.recorder is not None:
        return _Current.recorder(module, q, k, v, spec)[None], None
    return attend(q, k, v, module.packed_keys, module.packed_values, spec)[None], None


AttentionInterface.register(IMPLEMENTATION, hook)
