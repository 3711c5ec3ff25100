"""Latent attention: the keys and values of all heads, kept as the one vector a token that they are made of.

The family of DeepSeek-V2 makes the keys and values of a token from a latent, by one product for all heads. A query that
is multiplied with the keys' half of that product meets the latent itself, and what it finds there becomes values by the
other half (DeepSeek-V2, arXiv:2405.04434, section 2.1.2). So the cache keeps the latent, and behind it the numbers of
the key that turn with its position; attention sees one key-value head, whose values lie in its keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parquetry.workers.packed.attention.kv_cache import LayerShape

#: what an attention module of the family calls the product, and its sizes
PROJECTION = "kv_b_proj"
SIZES = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


class Latents(nn.Module):
    """Stands where the product stood, and hands the latents on in the shape of keys and values of a few heads."""

    def __init__(self, projection: nn.Linear, sizes: Sequence[int]) -> None:
        super().__init__()
        self.rank, self.plain, self.turned, self.value_dim = sizes
        self.weight = projection.weight

    def forward(self, latents: Tensor) -> Tensor:
        """latents (..., rank); returns (..., heads * (plain + value_dim)), of as many heads as they fill."""
        return F.pad(latents, (0, -self.rank % (self.plain + self.value_dim)))

    def absorb(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (num_tokens, num_heads, plain + turned), k and v as the attention module makes them of the latents.

        Returns q (num_tokens, num_heads, rank + turned), k (num_tokens, 1, rank + turned), v (num_tokens, 1, rank).
        """
        latents = torch.cat([k[..., : self.plain], v], -1).flatten(1)[:, : self.rank]
        keys = torch.cat([latents, k[:, 0, self.plain :]], -1)
        plain = torch.bmm(q[..., : self.plain].transpose(0, 1), self._halves()[0])
        return torch.cat([plain.transpose(0, 1), q[..., self.plain :]], -1), keys[:, None], latents[:, None]

    def expand(self, out: Tensor) -> Tensor:
        """out (num_tokens, num_heads, rank); returns (num_tokens, num_heads, value_dim)."""
        return torch.bmm(out.transpose(0, 1), self._halves()[1].transpose(1, 2)).transpose(0, 1)

    def _halves(self) -> tuple[Tensor, Tensor]:
        """The product's rows that make keys (num_heads, plain, rank), and values (num_heads, value_dim, rank)."""
        by_head = self.weight.unflatten(0, (-1, self.plain + self.value_dim))
        return by_head[:, : self.plain], by_head[:, self.plain :]


def latents_of(module: nn.Module) -> Latents | None:
    """What stands where an attention module had its product, if it does."""
    found = module._modules.get(PROJECTION)
    return found if isinstance(found, Latents) else None


def has_latents(layers: Sequence[LayerShape]) -> bool:
    """Whether every layer makes its keys and values of latents, by a product that is as it was trained."""
    return all(_can_absorb(layer.module) for layer in layers)


def _can_absorb(module: nn.Module) -> bool:
    projection = module._modules.get(PROJECTION)
    if type(projection) is not nn.Linear or projection.bias is not None or projection._forward_hooks:
        return False
    sizes = [getattr(module, name, None) for name in SIZES]
    if not all(isinstance(size, int) for size in sizes) or getattr(module, "packed_sliding_window", 0):
        return False
    rank, plain, _, value_dim = sizes
    weight = projection.weight
    # quantized weights are of a type of their own, or of one byte a number
    is_plain = type(weight.data) is Tensor and weight.dtype.itemsize > 1
    return is_plain and weight.shape[1] == rank and weight.shape[0] % (plain + value_dim) == 0


def absorb_projections(layers: Sequence[LayerShape], undo: ExitStack) -> list[LayerShape]:
    """Put latents in place of keys and values; returns what the layers then store."""
    return [_absorb(layer, undo) for layer in layers]


def _absorb(layer: LayerShape, undo: ExitStack) -> LayerShape:
    module = layer.module
    projection = module._modules[PROJECTION]
    assert isinstance(projection, nn.Linear)
    latents = Latents(projection, [getattr(module, name) for name in SIZES])
    undo.callback(setattr, module, PROJECTION, projection)
    setattr(module, PROJECTION, latents)
    key_dim = latents.rank + latents.turned
    return replace(layer, num_kv_heads=1, key_dim=key_dim, value_dim=latents.rank, values_in_keys=True)
