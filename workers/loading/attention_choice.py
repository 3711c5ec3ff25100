"""`model.attention`: what each choice needs, and how a loaded model is switched to it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from parquetry.schemas.errors import UnsupportedAttentionError
from parquetry.schemas.spec.job import Attention
from parquetry.workers.card import Card
from parquetry.workers.loading.precision import HALF
from parquetry.workers.packages import require

#: sdpa-* -> the kernel's name in torch.nn.attention.SDPBackend
_KERNELS = {
    "sdpa-flash": "FLASH_ATTENTION",
    "sdpa-efficient": "EFFICIENT_ATTENTION",
    "sdpa-math": "MATH",
    "sdpa-cudnn": "CUDNN_ATTENTION",
}
_MODULES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
#: choices that one kind of engine alone can serve
PACKED_ONLY = frozenset({"triton"})
PADDED_ONLY = frozenset({"eager", "flash_attention_3", "sdpa-efficient", "sdpa-cudnn"})
#: kernels that take as many key heads as query heads only
_UNGROUPED = frozenset({"sdpa-efficient", "sdpa-cudnn"})


@dataclass(frozen=True)
class AttentionLimits:
    """What decides which attention can serve: the card, the dtype, and what the model's class declares."""

    card: Card
    dtype: str
    has_sdpa: bool = True
    has_flash: bool = True

    @classmethod
    def of(cls, class_to_load: type | None, card: Card, dtype: str) -> AttentionLimits:
        """From the flags of a transformers model class; nothing is held against one that is not known yet."""
        if class_to_load is None:
            return cls(card, dtype)
        has_flash = getattr(class_to_load, "_supports_flash_attn", False)
        return cls(card, dtype, getattr(class_to_load, "_supports_sdpa", False), has_flash)

    def obstacle(self, choice: str) -> str | None:
        """Why `choice` cannot serve, or None."""
        if choice in ("auto", "eager"):
            return None
        if choice.startswith("sdpa"):
            return self._sdpa_obstacle(choice)
        if choice == "triton":
            return None if self.card.kind == "cuda" else f"it needs a CUDA card, and {self.card.description}"
        return self._flash_obstacle(choice)

    def _sdpa_obstacle(self, choice: str) -> str | None:
        on_cuda = self.card.kind == "cuda"
        if not self.has_sdpa:
            return "the model's class does not support it"
        if choice in ("sdpa-efficient", "sdpa-cudnn") and not on_cuda:
            return f"the kernel needs a CUDA card, and {self.card.description}"
        if choice == "sdpa-cudnn" and (self.dtype not in HALF or not self.card.reaches((8, 0))):
            return "the kernel takes bfloat16 or float16 on a card of compute capability 8.0 or newer"
        if choice == "sdpa-flash" and on_cuda:
            return "on a CUDA card the kernel takes no mask, and batches of rows need one"
        return None

    def _flash_obstacle(self, choice: str) -> str | None:
        if not self.has_flash:
            return "the model's class does not support it"
        if self.dtype not in HALF:
            return f"it takes bfloat16 or float16, and the model is loaded as {self.dtype}"
        if choice == "flash_attention_3" and (self.card.capability or (0, 0))[0] != 9:
            return f"it needs a card of compute capability 9.0, and {self.card.description}"
        if not self.card.reaches((8, 0)):
            return f"it needs a CUDA card of compute capability 8.0 or newer, and {self.card.description}"
        return None

    @property
    def supported(self) -> list[str]:
        """Every choice that can serve, but for packages that may have to be installed."""
        return [choice for choice in get_args(Attention) if self.obstacle(choice) is None]


def check_attention(choice: Attention, limits: AttentionLimits) -> None:
    """Raise UnsupportedAttentionError, which says what is supported, or MissingPackageError."""
    reason = limits.obstacle(choice)
    if reason is not None:
        raise UnsupportedAttentionError(attention=choice, reason=reason, supported=", ".join(limits.supported))
    if choice in _MODULES:
        require(_MODULES[choice], feature=f"model.attention {choice}")


def implementation(choice: Attention) -> str | None:
    """What transformers calls the choice; None leaves it to transformers."""
    if choice == "auto" or choice in PACKED_ONLY:
        return None
    if choice in _UNGROUPED:
        from parquetry.workers.loading.ungrouped import IMPLEMENTATION

        return IMPLEMENTATION
    return "sdpa" if choice.startswith("sdpa") else choice


def use_attention(model: Any, choice: Attention) -> None:
    """Switch a loaded model to `choice`; its weights stay where they are.

    A choice that names a kernel of scaled_dot_product_attention pins it: a shape the kernel cannot do is then an
    error and not a slow path. A choice that leaves it open gets what the model was loaded with.
    """
    own = model.__dict__.setdefault("own_attention", model.config._attn_implementation)
    name = implementation(choice) or own
    if name != model.config._attn_implementation:
        model.set_attn_implementation(name)
    forward = getattr(model.forward, "unpinned", model.forward)
    if choice in _KERNELS:
        model.forward = _pinned(forward, _KERNELS[choice])
    elif forward is not model.forward:
        model.forward = forward


def _pinned(forward: Callable[..., Any], kernel: str) -> Callable[..., Any]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    @functools.wraps(forward)
    def pinned(*args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel(getattr(SDPBackend, kernel)):
            return forward(*args, **kwargs)

    vars(pinned)["unpinned"] = forward
    return pinned


def attention_name(model: Any, choice: Attention) -> str:
    """What the model computes attention with, for provenance."""
    return choice if choice in _KERNELS else str(getattr(model.config, "_attn_implementation", None) or "eager")
