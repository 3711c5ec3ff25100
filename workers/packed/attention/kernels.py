"""The CUDA backends: which kernel serves which part of a step."""

from __future__ import annotations

from torch import Tensor

from parquetry.workers.packed.attention import flash
from parquetry.workers.packed.attention.hook import AttentionBackend, AttentionSpec, AttentionStep, PrefillTensors
from parquetry.workers.packed.attention.paged_decode import paged_decode
from parquetry.workers.packed.attention.paged_prefill import paged_prefill
from parquetry.workers.packed.attention.store import store


def inner_contiguous(x: Tensor) -> Tensor:
    """`x` with innermost stride 1, which is all the kernels ask for."""
    return x if x.stride(-1) == 1 else x.contiguous()


class TritonBackend(AttentionBackend):
    """Our kernels for everything: any head size, window, softcap and sinks."""

    name = "triton"
    block_size = 32
    shares_prefixes = True
    cuts_prompts_freely = True

    def write(self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
        store(inner_contiguous(k), inner_contiguous(v), k_cache, v_cache, slot_mapping)

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
        q, k, v = (inner_contiguous(x) for x in (q, k, v))
        return paged_decode(q, k, v, k_cache, v_cache, step, spec)

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
        part = step.prefill
        assert part is not None
        if part.is_fresh and self.can_attend_fresh(q, v, spec):
            q, k, v = (inner_contiguous(x) for x in (q, k, v))
            return self.attend_fresh(q, k, v, part, spec)
        return paged_prefill(inner_contiguous(q), k_cache, v_cache, step, spec)

    def can_attend_fresh(self, q: Tensor, v: Tensor, spec: AttentionSpec) -> bool:
        """Whether `attend_fresh` takes this layer."""
        return False

    def attend_fresh(self, q: Tensor, k: Tensor, v: Tensor, part: PrefillTensors, spec: AttentionSpec) -> Tensor:
        """Attention of chunks that start their sequences, from q, k and v themselves."""
        raise NotImplementedError


class TorchVarlenBackend(TritonBackend):
    """Torch's built-in variable-length flash attention for fresh prompts, our kernels for the rest."""

    name = "torch_varlen"
    cuts_prompts_freely = False

    def can_attend_fresh(self, q: Tensor, v: Tensor, spec: AttentionSpec) -> bool:
        return flash.torch_can_attend(q, v, spec)

    def attend_fresh(self, q: Tensor, k: Tensor, v: Tensor, part: PrefillTensors, spec: AttentionSpec) -> Tensor:
        return flash.torch_varlen(q, k, v, part, spec)


class FlashAttentionBackend(TritonBackend):
    """The flash-attn package for fresh prompts, our kernels for the rest."""

    name = "flash_attention_2"
    cuts_prompts_freely = False

    def can_attend_fresh(self, q: Tensor, v: Tensor, spec: AttentionSpec) -> bool:
        return flash.package_can_attend(q, v, spec)

    def attend_fresh(self, q: Tensor, k: Tensor, v: Tensor, part: PrefillTensors, spec: AttentionSpec) -> Tensor:
        return flash.package_varlen(q, k, v, part, spec)
