"""After the cache exists: prefill in chunks, then decode, through the real backend, against the eager model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from parquetry.workers.packed.checks.hooked_layers import check_logits, eager_logits, probe_ids
from parquetry.workers.packed.runner import ModelRunner
from parquetry.workers.packed.scheduling.batch import Batch, PrefillChunk
from parquetry.workers.packed.scheduling.sequence import Sequence
from parquetry.workers.request import GenerationRequest

#: tokens of each probe sequence that are decoded one by one; the rest is prefilled in two chunks
NUM_DECODED = 3


def check_engine(model: nn.Module, runner: ModelRunner) -> None:
    """Raise UnsupportedModel when the paged path and the eager model disagree. Uses lane 0 and the first blocks.

    The ranks of a group must agree to the last bit, or RanksDivergedError is raised: each samples for itself.
    """
    # the model as it is, and its last adapter
    for number in sorted({0, len(runner.adapters.names)}):
        for tokens in probe_ids(model):
            with runner.adapters.choosing(torch.full_like(tokens, number)):
                (theirs,) = eager_logits(model, [tokens])
            mine = paged_logits(runner, probe_sequence(tokens.cpu().numpy(), runner, number))
            runner.group.require_equal(mine, "the logits")
            check_logits(model, mine, theirs[-NUM_DECODED - 1 :], "paged logits differ from the eager model")


def probe_sequence(tokens: np.ndarray, runner: ModelRunner, adapter: int = 0) -> Sequence:
    """A sequence that owns blocks nobody else has yet."""
    sequence = Sequence(GenerationRequest(id=-1, prompt_ids=tokens), adapter)
    sequence.lane = 0
    sequence.blocks = list(range(-(-len(tokens) // runner.lanes.block_size)))
    return sequence


@torch.inference_mode()
def paged_logits(runner: ModelRunner, sequence: Sequence) -> Tensor:
    """(NUM_DECODED + 1, vocab) logits of the last tokens: two prefill chunks, then one decode a token."""
    tokens, size = sequence.tokens, runner.lanes.block_size
    num_prefilled = len(tokens) - NUM_DECODED
    sequence.tokens = tokens[:num_prefilled]
    none = np.empty(0, dtype=np.int32)
    half = num_prefilled // 2
    rows = []
    for start, stop in ((0, half), (half, num_prefilled)):
        chunk = PrefillChunk(sequence, sequence.lane, start, stop)
        rows.append(runner.forward(runner.builder.build(Batch(none, none, none, [chunk], [sequence]))))
    for position in range(num_prefilled, len(tokens)):
        runner.lanes.tokens[sequence.lane] = int(tokens[position])
        lane, block = sequence.lane, sequence.blocks[position // size]
        batch = Batch(*(np.asarray([x], dtype=np.int32) for x in (lane, position, block)), [])
        rows.append(runner.forward(runner.builder.build(batch)))
    return torch.cat(rows[1:])
