"""Runs the model: batches in, sampled tokens out, without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from parquetry.workers.loading.adapter_bank import AdapterBank
from parquetry.workers.packed.attention.hook import AttentionBackend, computing
from parquetry.workers.packed.graphs import DecodeGraphs
from parquetry.workers.packed.sampling.sampler import Sampler, SamplingMode
from parquetry.workers.packed.scheduling.batch import Batch
from parquetry.workers.packed.step_tensors import Choice, DeviceLanes, StepBuilder, StepTensors
from parquetry.workers.parallel.group import SOLO, RankGroup


@dataclass
class InFlight:
    """The tokens of a launched step, on their way to the host. `epochs` say whose tokens they are."""

    lanes: np.ndarray
    epochs: np.ndarray
    tokens: Tensor
    logprobs: Tensor | None
    done: torch.cuda.Event | None
    #: (1,) how many ranks ran out of memory in the step; None on one device
    num_failed: Tensor | None = None

    @property
    def is_void(self) -> bool:
        """Whether the tokens are of no use; known once `wait` has returned."""
        return self.num_failed is not None and bool(self.num_failed.item())

    def wait(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Tokens and log-probabilities, (num_sampled,) each, once the device is through with them."""
        if self.done is not None:
            self.done.synchronize()
        return self.tokens.numpy(), None if self.logprobs is None else self.logprobs.numpy()


def to_host(x: Tensor) -> Tensor:
    """Start a copy to pinned memory; on a CPU, a copy."""
    if x.device.type != "cuda":
        return x.clone()
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Start a copy from the host that does not wait; on a CPU, `x` itself."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x


class ModelRunner:
    """Owns the forward pass, the sampler and the device's view of the lanes."""

    def __init__(
        self,
        model: nn.Module,
        backend: AttentionBackend,
        lanes: DeviceLanes,
        sampler: Sampler,
        group: RankGroup = SOLO,
    ) -> None:
        self.model = model
        self.group = group
        self.backend = backend
        self.lanes = lanes
        self.sampler = sampler
        self.builder = StepBuilder(lanes)
        self.adapters = AdapterBank.of(model)
        self.graphs: DecodeGraphs | None = None
        #: rows that graph replays computed for nobody
        self.num_padding_tokens = 0

    @torch.inference_mode()
    def launch(
        self, batch: Batch, epochs: np.ndarray, mode: SamplingMode, allow: Callable[[], Tensor] | None = None
    ) -> InFlight:
        """Start one step; `epochs` (num_sampled,) are handed on to whoever collects it.

        `allow` returns the token masks of the sampled rows, on the host. It is called while the device computes the
        logits, so the host may wait for the step before and still keep the device busy.
        """
        return self.send_back(batch.sampled_lanes, epochs, *self.compute(batch, mode, allow))

    def compute(
        self, batch: Batch, mode: SamplingMode, allow: Callable[[], Tensor] | None
    ) -> tuple[Tensor, Tensor | None]:
        """The tokens of one step and their log-probabilities, on the device."""
        if batch.admitted:
            self.sampler.admit(batch.admitted)
        if allow is not None:
            return self.run_allowed(batch, mode, allow)
        if self.is_replayed(batch):
            return self.graphs.replay(batch, mode)
        return self.run(self.builder.build(batch), mode)

    def is_replayed(self, batch: Batch) -> bool:
        """Whether a captured graph computes this batch."""
        return self.graphs is not None and self.graphs.takes(batch)

    def run(self, step: StepTensors, mode: SamplingMode) -> tuple[Tensor, Tensor | None]:
        """Forward and sample one step; the token table takes the new tokens."""
        return self.choose(self.choice(step), mode)

    def run_allowed(
        self, batch: Batch, mode: SamplingMode, allow: Callable[[], Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Like `run`, with masks that arrive while the logits are on their way."""
        if self.is_replayed(batch):
            choice = self.graphs.replay_forward(batch)
        else:
            choice = self.choice(self.builder.build(batch))
        return self.choose(choice, mode, to_device(allow(), self.lanes.device))

    def choice(self, step: StepTensors) -> Choice:
        """What the step samples from."""
        return Choice(self.forward(step), step.sample_lanes, step.sample_positions)

    def choose(self, choice: Choice, mode: SamplingMode, allowed: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Sample the next tokens and put them into the token table."""
        tokens, logprobs = self.sampler.sample(choice.logits, choice.lanes, choice.positions, mode, allowed)
        self.lanes.tokens[choice.lanes] = tokens
        return tokens, logprobs

    @torch.inference_mode()
    def rehearse(self, num_tokens: int, num_sampled: int, max_model_len: int) -> None:
        """Compute the largest step there can be, for nobody: it compiles, and it shows the peak memory."""
        self.run(self.builder.rehearsal(num_tokens, num_sampled, max_model_len), SamplingMode.GREEDY)

    @torch.inference_mode()
    def prove(self) -> Tensor:
        """Logits (2, vocab) of a small prompt of nobody's. Raises RuntimeError when the layers do not work."""
        return self.forward(self.trial_step())

    def trial_step(self) -> StepTensors:
        """A prompt of 16 different tokens, the last two of which are sampled."""
        step = self.builder.rehearsal(16, 2, 16)
        step.input_ids = torch.arange(16, device=self.lanes.device) % self.sampler.vocab_size
        step.sample_rows = torch.tensor([14, 15], device=self.lanes.device)
        return step

    def forward(self, step: StepTensors) -> Tensor:
        """Logits (num_sampled, vocab) of the rows to sample."""
        with computing(self.backend, step.attention), self.adapters.choosing(step.adapters):
            return self.model(
                input_ids=step.input_ids[None],
                position_ids=step.position_ids[None],
                use_cache=False,
                logits_to_keep=step.sample_rows,
            ).logits[0]

    @staticmethod
    def send_back(
        lanes: np.ndarray, epochs: np.ndarray, tokens: Tensor, logprobs: Tensor | None, num_failed: Tensor | None = None
    ) -> InFlight:
        """Start the copy of a step's tokens to the host."""
        host_failed = None if num_failed is None else to_host(num_failed)
        host_logprobs = None if logprobs is None else to_host(logprobs)
        host_tokens = to_host(tokens)
        done = None
        if tokens.device.type == "cuda":
            done = torch.cuda.Event()
            done.record()
        return InFlight(lanes, epochs, host_tokens, host_logprobs, done, host_failed)
