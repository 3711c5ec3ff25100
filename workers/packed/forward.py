"""The one forward pass of a step, and the sampling behind it: run as it is, or captured as a graph."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from parquetry.workers.loading.adapters.adapter_bank import AdapterBank
from parquetry.workers.packed.attention.backend import AttentionBackend
from parquetry.workers.packed.attention.hook import computing
from parquetry.workers.packed.long_rope import RowLengths
from parquetry.workers.packed.sampling.sampler import Sampler, SamplingMode
from parquetry.workers.packed.step_tensors import Candidates, DeviceLanes, StepTensors
from parquetry.workers.parallel.group import SOLO, RankGroup

#: sampled tokens (num_sampled,), and their log-probabilities where a row wants them
Sampled = tuple[Tensor, Tensor | None]


class Forward:
    """The model under the attention hook, the sampler, and the lanes they read and write."""

    def __init__(
        self,
        model: PreTrainedModel,
        backend: AttentionBackend,
        lanes: DeviceLanes,
        sampler: Sampler,
        lengths: RowLengths,
        group: RankGroup = SOLO,
    ) -> None:
        self.model = model
        self.backend = backend
        self.device_lanes = lanes
        self.sampler = sampler
        self.group = group
        self.adapters = AdapterBank.of(model)
        self.lengths = lengths

    def logits(self, step: StepTensors) -> Tensor:
        """Logits (num_sampled, vocab) of the rows to sample."""
        rows = self.adapters.choosing(step.adapters), self.lengths.choosing(step.are_long)
        with computing(self.backend, step.attention), rows[0], rows[1]:
            return self.model(
                input_ids=step.input_ids[None],
                position_ids=step.position_ids[None],
                use_cache=False,
                logits_to_keep=step.sample_rows,
            ).logits[0]

    def candidates(self, step: StepTensors) -> Candidates:
        """What the step samples from."""
        return Candidates(self.logits(step), step.sample_lanes, step.sample_positions)

    def sample(self, candidates: Candidates, mode: SamplingMode, allowed: Tensor | None = None) -> Sampled:
        """The next tokens, which the token table takes. `allowed` masks the tokens that grammars permit."""
        tokens, logprobs = self.sampler.sample(candidates.logits, candidates.lanes, candidates.positions, mode, allowed)
        self.device_lanes.tokens[candidates.lanes] = tokens
        return tokens, logprobs

    def tokens(self, step: StepTensors, mode: SamplingMode) -> Sampled:
        """One whole step."""
        return self.sample(self.candidates(step), mode)

    @torch.inference_mode()
    def rehearse(self, step: StepTensors) -> None:
        """Compute a step for nobody: it compiles, and it shows the peak memory."""
        self.tokens(step, SamplingMode.GREEDY)
