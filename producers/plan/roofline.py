"""How long a card takes at least, by its bandwidth and its rate: what a plan says where nothing was measured.

Prompts are products; a step of decoding reads the weights that its rows touch, or multiplies them, whichever takes
longer, and then the cache of its rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from parquetry.producers.plan.card_sheets import CardSheet
from parquetry.producers.plan.model_shape import ModelShape

#: what copies and products reach of the sheet's figures: 3.02 TB/s and 714 TFLOP/s on an H100, benchmarks/ideal.py
COPY_SHARE = 0.90
PRODUCT_SHARE = 0.72
#: a layer of a step takes so long however little there is to do: 64 rows of Qwen3-0.6B take 3.0 ms, 1.9 for bytes
LAYER_S = 40e-6
#: what is reached of that on a whole job, and what a card or a model that nobody has tried may reach
LIKELY_SHARE = 0.8
LEAST_SHARE = 0.35


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows whose time is asked for."""

    count: int
    #: of some of them
    prompt_lengths: Sequence[int]
    #: tokens at the start of every prompt that are the same, and computed once
    shared_prefix: int
    #: of one row on average, and at most
    output_tokens: float
    max_output_tokens: int
    #: how many are computed at a time
    at_once: int


@dataclass(frozen=True)
class Roofline:
    """One model on one card."""

    shape: ModelShape
    sheet: CardSheet
    is_fp8: bool = False

    @property
    def bytes_per_s(self) -> float:
        return self.sheet.bandwidth * 1e12 * COPY_SHARE

    @property
    def operations_per_s(self) -> float:
        rate = self.sheet.fp8_rate if self.is_fp8 and self.sheet.fp8_rate else self.sheet.half_rate
        return rate * 1e12 * PRODUCT_SHARE

    def seconds(self, rows: Rows) -> float:
        """Of one card, as fast as copies and products are."""
        return self.prompt_s(rows) + (self.decode_s(rows) if rows.output_tokens else 0.0)

    def prompt_s(self, rows: Rows) -> float:
        """Products of every prompt's own tokens, and attention of each to those before it."""
        lengths = rows.prompt_lengths or [0]
        own = fmean(max(0, length - rows.shared_prefix) for length in lengths) * rows.count
        pairs = fmean(length**2 - rows.shared_prefix**2 for length in lengths) / 2 * rows.count
        attended = 4 * self.shape.num_layers * self.shape.attention_width * max(0.0, pairs)
        return (2 * self.shape.active_numbers * own + attended) / self.operations_per_s

    def decode_s(self, rows: Rows) -> float:
        """Steps until the last row is through; rows thin out in the end, and the weights are read all the same."""
        at_once = max(1, min(rows.at_once, rows.count))
        longest = min(rows.max_output_tokens, rows.output_tokens * (math.log(at_once) + 0.58))
        steps = (rows.count / at_once - 1) * rows.output_tokens + max(rows.output_tokens, longest)
        tokens = rows.count * rows.output_tokens
        context = fmean(rows.prompt_lengths or [0]) - rows.shared_prefix + rows.output_tokens / 2
        in_a_step = tokens / steps
        operations = 2 * (self.shape.active_numbers + self.shape.head.numbers) * in_a_step
        read_s = self.shape.bytes_touched(in_a_step) / self.bytes_per_s
        step_s = max(read_s, operations / self.operations_per_s) + LAYER_S * self.shape.num_layers
        return steps * step_s + tokens * context * self.shape.kv_bytes_per_token / self.bytes_per_s
