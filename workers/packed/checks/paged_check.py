"""The packed model beside the stock one: prompts in chunks, then token by token, through the cache and the kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from parquetry.workers.checks.comparison import Comparison, Span
from parquetry.workers.checks.prompts import TextTokenizer, check_prompts
from parquetry.workers.checks.stock_run import PromptRun, run_stock
from parquetry.workers.engine import UnsupportedModel
from parquetry.workers.loading.adapters.adapter_bank import AdapterBank
from parquetry.workers.packed.attention.kv_cache import LayerShape
from parquetry.workers.packed.checks.attention_layers import attention_implementation
from parquetry.workers.packed.compile import decoder_layers
from parquetry.workers.packed.forward import Forward
from parquetry.workers.packed.long_rope import switch_of
from parquetry.workers.packed.scheduling.batch import Batch, PrefillChunk
from parquetry.workers.packed.scheduling.sequence import Sequence as PackedSequence
from parquetry.workers.packed.step_tensors import StepBuilder, StepTensors
from parquetry.workers.request import GenerationRequest

#: tokens of each prompt; on a CPU short ones, since the stock model computes them twice. The first chunk has as many
#: tokens as no model has heads: a compiler would take the two for the same dimension
NUM_TOKENS = {"cuda": (43, 71, 150), "cpu": (17, 26, 37)}
#: tokens at the end of the last prompt that are computed one by one; those before it have more
NUM_DECODED = 3


@dataclass
class PagedCheck:
    """The stock model's layers on a few prompts, and what the packed model is held against."""

    layers: nn.ModuleList
    head: nn.Module | None
    runs: list[PromptRun]
    #: the adapter that was on, 0 for the model as it is
    adapter: int = 0
    #: tokens up to which rows are short, where rotary frequencies depend on it
    rope_switch: int | None = None

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        attention: Sequence[LayerShape],
        tokenizer: TextTokenizer | None,
        adapters: AdapterBank,
        num_lanes: int,
        max_model_len: int,
    ) -> list[PagedCheck]:
        """Run the stock model, as it is and with its last adapter. Raises UnsupportedModel where it has no layers."""
        layers = decoder_layers(model, attention)
        if layers is None:
            raise UnsupportedModel(f"{type(model).__name__} keeps its layers in no list, so they cannot be checked")
        config = model.config.get_text_config()
        lengths = [min(length, max_model_len) for length in NUM_TOKENS[model.device.type]][:num_lanes]
        prompts = check_prompts(tokenizer, config.vocab_size, lengths)
        checks = []
        for number in sorted({0, len(adapters.names)}):
            chosen = adapters.choosing(torch.tensor([number], device=model.device) if number else None)
            with attention_implementation(model, "eager"), chosen:
                runs = run_stock(model, layers, prompts, shared=(adapters,))
            checks.append(cls(layers, model.get_output_embeddings(), runs, number, switch_of(config)))
        return checks

    def num_blocks(self, block_size: int) -> int:
        """Blocks of the cache that the check runs on."""
        return sum(-(-len(tokens) // block_size) for tokens in self.prompts)

    @property
    def prompts(self) -> list[np.ndarray]:
        return [run.tokens for run in self.runs]

    @torch.inference_mode()
    def require(self, forward: Forward, what: str) -> None:
        """Compute the prompts packed. Raises UnsupportedModel, beginning with `what`, where layers differ.

        Uses the first lanes and blocks. The ranks of a group must agree to the last bit, or RanksDivergedError is
        raised: each samples for itself.
        """
        comparison = Comparison(self.runs, self.layers, self.head)
        for spans, step in self.steps(forward):
            with comparison.watching(spans):
                comparison.see_end(logits := forward.logits(step))
            forward.group.require_equal(logits, "the logits")
            # logits are put together from all ranks: equal in any case; but experts are chosen by hidden states
            forward.group.require_equal(comparison.last_output, "the hidden states")
        comparison.require(what)

    def steps(self, forward: Forward) -> Iterator[tuple[list[Span], StepTensors]]:
        """What each step computes, and its tensors; every token keeps its logits."""
        sequences = check_sequences(self.prompts, forward.device_lanes.block_size, self.adapter)
        for sequence in sequences:
            sequence.is_long = self.rope_switch is not None and sequence.num_tokens > self.rope_switch
        for number, spans in enumerate(steps([len(tokens) for tokens in self.prompts])):
            yield spans, self._step(forward, sequences, spans, is_first=number == 0)

    def _step(
        self, forward: Forward, sequences: Sequence[PackedSequence], spans: Sequence[Span], *, is_first: bool
    ) -> StepTensors:
        """The tensors of one step, which keeps the logits of all its tokens."""
        for span in filter(is_decode, spans):
            forward.device_lanes.tokens[span.prompt] = int(self.prompts[span.prompt][span.start])
        batch = check_batch(sequences, spans, forward.device_lanes.block_size, is_first=is_first)
        step = StepBuilder(forward.device_lanes).build(batch)
        step.sample_rows = 0
        return step


def is_decode(span: Span) -> bool:
    """Whether a span is one token behind others of its sequence."""
    return span.start > 0 and span.stop - span.start == 1


def steps(lengths: Sequence[int]) -> list[list[Span]]:
    """Which tokens of which prompt each step computes, decodes first: two chunks, then tokens one by one.

    A prompt starts one step behind the one before it, so that steps hold chunks and decodes of several. All end in the
    same step: compilers treat one token as a case of its own.
    """
    by_step: dict[int, list[Span]] = {}
    for prompt, length in enumerate(lengths):
        prefilled = max(2, length - NUM_DECODED - (len(lengths) - 1 - prompt))
        cuts = [0, prefilled // 2, *range(prefilled, length + 1)]
        for number, (start, stop) in enumerate(pairwise(cuts), prompt):
            by_step.setdefault(number, []).append(Span(prompt, start, stop))
    return [sorted(by_step[number], key=lambda span: not is_decode(span)) for number in sorted(by_step)]


def check_sequences(prompts: Sequence[np.ndarray], block_size: int, adapter: int) -> list[PackedSequence]:
    """A sequence a prompt, in the first lanes, with blocks that nobody else has yet."""
    sequences, first = [], 0
    for lane, tokens in enumerate(prompts):
        sequence = PackedSequence(GenerationRequest(id=-1 - lane, prompt_ids=tokens), adapter)
        sequence.lane = lane
        count = -(-len(tokens) // block_size)
        sequence.blocks = list(range(first, first + count))
        first += count
        sequences.append(sequence)
    return sequences


def check_batch(
    sequences: Sequence[PackedSequence], spans: Sequence[Span], block_size: int, *, is_first: bool
) -> Batch:
    """The batch of one step; the first admits every sequence."""
    decodes = [span for span in spans if is_decode(span)]
    lanes, positions = [span.prompt for span in decodes], [span.start for span in decodes]
    blocks = [sequences[span.prompt].blocks[span.start // block_size] for span in decodes]
    chunks = [PrefillChunk(sequences[s.prompt], s.prompt, s.start, s.stop) for s in spans if not is_decode(s)]
    decode_lanes, at, last_blocks = (np.asarray(column, dtype=np.int32) for column in (lanes, positions, blocks))
    return Batch(decode_lanes, at, last_blocks, chunks, list(sequences) if is_first else [])
