"""Rotary embeddings with one set of frequencies for short rows and one for long ones, chosen row by row.

Stock classes choose by the largest position of the whole forward pass, so that a row's answer would depend on its
neighbours. What counts is what a row gets alone: short frequencies while it fits the length that the model was first
trained on, and long ones for all of its tokens, computed anew, once it does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from parquetry.workers.engine import UnsupportedModel

#: the switch while the load check runs, so that some of its prompts are short rows and some are long ones
SHORT_SWITCH = 30


class RowLengths:
    """Which tokens of the forward pass that is being computed belong to long rows."""

    def __init__(self) -> None:
        #: (num_tokens,) bool, None for none
        self.are_long: Tensor | None = None

    @contextmanager
    def choosing(self, are_long: Tensor | None) -> Iterator[None]:
        """Compute a forward pass over these tokens."""
        self.are_long = are_long
        try:
            yield
        finally:
            self.are_long = None


class RowRope(nn.Module):
    """Stands where a model's rotary embedding stood."""

    short_freq: Tensor
    long_freq: Tensor

    def __init__(self, stock: Any, switch: int, lengths: RowLengths) -> None:
        """`stock` is the embedding it stands for, `switch` the tokens up to which a row is short."""
        super().__init__()
        self.lengths = lengths
        self.attention_scaling = float(stock.attention_scaling)
        long, _ = ROPE_INIT_FUNCTIONS["longrope"](stock.config, stock.inv_freq.device, seq_len=switch + 1)
        self.register_buffer("short_freq", stock.original_inv_freq.to(stock.inv_freq.device), persistent=False)
        self.register_buffer("long_freq", long, persistent=False)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """x (1, num_tokens, dim) gives dtype and device, position_ids (1, num_tokens); cosines and sines."""
        are_long = self.lengths.are_long
        freq = self.short_freq if are_long is None else torch.where(are_long[:, None], self.long_freq, self.short_freq)
        angles = position_ids[..., None].float() * freq
        both = torch.cat((angles, angles), dim=-1)
        return (both.cos() * self.attention_scaling).to(x.dtype), (both.sin() * self.attention_scaling).to(x.dtype)


def rope_type(config: PreTrainedConfig) -> str:
    """The kind of a text config's rotary embedding, "default" for plain ones and for none."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    kinds = {str(one.get("rope_type", "default")) for one in nested or [parameters]}
    if len(kinds) > 1 and kinds & {"longrope", "dynamic"}:
        raise UnsupportedModel("its layers have rotary embeddings of several kinds, some of which depend on the length")
    return kinds.pop()


def switch_of(config: PreTrainedConfig) -> int | None:
    """Tokens up to which a row is short, None where frequencies do not depend on the length."""
    if rope_type(config) != "longrope":
        return None
    return int(config.rope_parameters["original_max_position_embeddings"])


def longest_row(config: PreTrainedConfig, max_model_len: int) -> int:
    """The longest row that the frequencies serve: dynamic ones grow with the batch beyond the trained length."""
    if "dynamic" not in rope_type(config):
        return max_model_len
    return min(max_model_len, int(config.max_position_embeddings))


def choose_by_row(model: PreTrainedModel, undo: ExitStack) -> RowLengths:
    """Give a model whose rotary embeddings depend on the length ours."""
    lengths = RowLengths()
    switch = switch_of(model.config.get_text_config())
    if switch is None:
        return lengths
    owners = [(owner, name, child) for owner in model.modules() for name, child in owner.named_children()]
    for owner, name, child in owners:
        if getattr(child, "rope_type", None) == "longrope":
            undo.callback(setattr, owner, name, child)
            setattr(owner, name, RowRope(child, switch, lengths))
    return lengths


@contextmanager
def short_switch(config: PreTrainedConfig) -> Iterator[None]:
    """Rows are long from SHORT_SWITCH tokens on."""
    switch = switch_of(config)
    if switch is None or switch <= SHORT_SWITCH:
        yield
        return
    config.rope_parameters["original_max_position_embeddings"] = SHORT_SWITCH
    try:
        yield
    finally:
        config.rope_parameters["original_max_position_embeddings"] = switch
