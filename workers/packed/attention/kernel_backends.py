"""The CUDA backends: which kernel serves which tokens of a step."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from parquetry.workers.packed.attention import flash
from parquetry.workers.packed.attention.backend import AttentionBackend
from parquetry.workers.packed.attention.call import AttentionCall
from parquetry.workers.packed.attention.kernels.paged_decode import paged_decode
from parquetry.workers.packed.attention.kernels.paged_latent import decode_latents, prefill_latents, store_latents
from parquetry.workers.packed.attention.kernels.paged_prefill import paged_prefill
from parquetry.workers.packed.attention.kernels.store import store
from parquetry.workers.packed.attention.kernels.widening import widened


class TritonBackend(AttentionBackend):
    """Our kernels for everything: any head size, sliding window, softcap and sinks."""

    name = "triton"
    block_size = 32
    shares_prefixes = True
    cuts_prompts_freely = True

    def __init__(self) -> None:
        #: computes the chunks of prompts; a kernel made for the card may take its place
        self.attend_chunks: Callable[[AttentionCall], Tensor] = paged_prefill

    def write(self, call: AttentionCall) -> None:
        if call.spec.values_in_keys:
            store_latents(call)
        else:
            store(call.inner_contiguous())

    def decode(self, call: AttentionCall) -> Tensor:
        if call.spec.values_in_keys:
            return decode_latents(call.inner_contiguous())
        return paged_decode(call.inner_contiguous())

    def prefill(self, call: AttentionCall) -> Tensor:
        call = call.inner_contiguous()
        if call.spec.values_in_keys:
            return prefill_latents(call)
        if call.prefill.is_fresh and self.can_attend_fresh(call):
            return self.attend_fresh(call)
        return self.attend_chunks(widened(call))

    def can_attend_fresh(self, call: AttentionCall) -> bool:
        """Whether `attend_fresh` takes this layer."""
        return False

    def attend_fresh(self, call: AttentionCall) -> Tensor:
        """Attention of chunks that start their sequences, from q, k and v themselves."""
        raise NotImplementedError


class TorchVarlenBackend(TritonBackend):
    """Torch's built-in variable-length flash attention for fresh prompts, our kernels for the rest."""

    name = "torch_varlen"
    cuts_prompts_freely = False

    def can_attend_fresh(self, call: AttentionCall) -> bool:
        return flash.torch_can_attend(call)

    def attend_fresh(self, call: AttentionCall) -> Tensor:
        return flash.torch_varlen(call)


class FlashAttentionBackend(TritonBackend):
    """The flash-attn package for fresh prompts, our kernels for the rest."""

    name = "flash_attention_2"
    cuts_prompts_freely = False

    def can_attend_fresh(self, call: AttentionCall) -> bool:
        return flash.package_can_attend(call)

    def attend_fresh(self, call: AttentionCall) -> Tensor:
        return flash.package_varlen(call)
