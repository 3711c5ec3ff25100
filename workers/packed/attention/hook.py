"""The one hook under stock transformers classes: keys and values go to paged blocks, a backend does the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from parquetry.workers.packed.attention.backend import AttentionBackend
from parquetry.workers.packed.attention.call import AttentionCall, AttentionSpec, AttentionStep
from parquetry.workers.packed.attention.latent import latents_of

IMPLEMENTATION = "parquetry_packed"


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
    """The call of a layer in the current step; returns (num_tokens, num_heads, value_dim)."""
    backend, step = _Current.backend, _Current.step
    assert backend is not None and step is not None, "the packed hook ran outside a step"
    if spec.values_in_keys:
        v_cache = k_cache[..., : v.shape[2]]
    call = AttentionCall(q, k, v, k_cache, v_cache, step, spec)
    outs = []
    if step.num_decodes:
        outs.append(backend.decode(call.tokens(0, step.num_decodes)))
    if step.prefill is not None:
        chunks = call.tokens(step.num_decodes)
        # all of them first: a chunk may read what another one of this step computes
        backend.write(chunks)
        outs.append(backend.prefill(chunks))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


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
    sliding_window: int,
    softcap: float,
    values_in_keys: bool,
) -> Tensor:
    """`attend` as an opaque operator, for compiled layers."""
    spec = AttentionSpec(scale, sliding_window, softcap, sinks, values_in_keys)
    out = attend(q, k, v, k_cache, v_cache, spec)
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
    sliding_window = int(getattr(module, "packed_sliding_window", sliding_window) or 0)
    latents = latents_of(module)
    spec = AttentionSpec(scale, sliding_window, float(softcap or 0.0), s_aux, values_in_keys=latents is not None)
    if latents is None:
        return attend_layer(module, q, k, v, spec)[None], None
    return latents.expand(attend_layer(module, *latents.absorb(q, k, v), spec))[None], None


def attend_layer(module: Any, q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec) -> Tensor:
    """`attend` with the caches of a layer, by whichever way it is being run."""
    if torch.compiler.is_compiling():
        out: Tensor = torch.ops.parquetry.packed_attention(
            q, k, v, module.packed_keys, module.packed_values, spec.sinks, spec.scale, spec.sliding_window,
            spec.softcap, spec.values_in_keys,
        )  # fmt: skip
        return out
    if _Current.recorder is not None:
        recorded: Tensor = _Current.recorder(module, q, k, v, spec)
        return recorded
    return attend(q, k, v, module.packed_keys, module.packed_values, spec)


AttentionInterface.register(IMPLEMENTATION, hook)
