"""Windows that rows of a check outgrow: what a model sees at once, made small for as long as the check takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel

#: attributes of configs and of modules that say how many tokens back, or how many of all, a layer sees
WINDOWS = ("sliding_window", "sliding_window_size", "attention_window_size", "attention_chunk_size")
#: the same for those seen by their score
CHOICES = ("index_topk", "index_topk_blocks")
#: what windows are narrowed to, so that rows outgrow them
NARROW = 4


def widths_to_try(model: PreTrainedModel) -> tuple[int | None, ...]:
    """What `narrowed` takes so that rows of a check are longer than every window, and shorter than those that are wide:
    some classes leave out the mask of a row that no window cuts.
    """
    return (NARROW, None) if _wide(model, NARROW) else (NARROW,)


def _wide(model: PreTrainedModel, size: int) -> list[tuple[Any, str, int]]:
    """Owner, name and value of each window of more than `size` tokens."""
    return [
        (owner, name, value)
        for owner in owners(model)
        for name in (*WINDOWS, *CHOICES)
        if is_wide(value := vars(owner).get(name), size)
    ]


@contextmanager
def narrowed(model: PreTrainedModel, size: int | None) -> Iterator[None]:
    """In here no window of the model is larger than `size` tokens, in its configs and modules; None leaves them."""
    changed = [] if size is None else _wide(model, size)
    for owner, name, _ in changed:
        setattr(owner, name, size)
    try:
        yield
    finally:
        for owner, name, value in changed:
            setattr(owner, name, value)


def chooses_tokens(model: PreTrainedModel) -> bool:
    """Whether layers see the tokens with the best scores only."""
    return any(name in vars(owner) for owner in owners(model) for name in CHOICES)


def is_wide(value: Any, size: int) -> bool:
    """Whether this is a window of more than `size` tokens."""
    return isinstance(value, int) and not isinstance(value, bool) and value > size


def owners(model: PreTrainedModel) -> list[Any]:
    """Every module and every config of the model, once."""
    found: dict[int, Any] = {}
    for module in model.modules():
        found[id(module)] = module
        config = getattr(module, "config", None)
        for one in (config, *(vars(config).values() if hasattr(config, "__dict__") else ())):
            if hasattr(one, "to_dict"):
                found[id(one)] = one
    return list(found.values())
