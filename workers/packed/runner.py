"""Runs batches: sampled tokens out, without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parquetry.workers.packed.forward import Forward, Sampled
from parquetry.workers.packed.graphs import DecodeGraphs
from parquetry.workers.packed.sampling.sampler import SamplingMode
from parquetry.workers.packed.scheduling.batch import Batch
from parquetry.workers.packed.step_tensors import Candidates, StepBuilder


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
    """Computes batches through a captured graph where there is one, else through the forward pass itself."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.builder = StepBuilder(forward.device_lanes)
        self.graphs: DecodeGraphs | None = None

    @property
    def num_padding_tokens(self) -> int:
        """Rows that graph replays computed for nobody."""
        return 0 if self.graphs is None else self.graphs.num_padding_tokens

    @torch.inference_mode()
    def launch(
        self, batch: Batch, epochs: np.ndarray, mode: SamplingMode, allow: Callable[[], Tensor] | None = None
    ) -> InFlight:
        """Start one step; `epochs` (num_sampled,) are handed on to whoever collects it.

        `allow` returns the token masks of the sampled rows, on the host. It is called while the device computes the
        logits, so the host may wait for the step before and still keep the device busy.
        """
        return self.send_back(batch.sampled_lanes, epochs, *self.compute(batch, mode, allow))

    def compute(self, batch: Batch, mode: SamplingMode, allow: Callable[[], Tensor] | None) -> Sampled:
        """The tokens of one step and their log-probabilities, on the device."""
        if batch.admitted:
            self.forward.sampler.admit(batch.admitted)
        graphs = self.graphs if self.is_replayed(batch) else None
        if allow is not None:
            candidates = self._candidates(batch) if graphs is None else graphs.candidates(batch)
            return self.forward.sample(candidates, mode, to_device(allow(), self.forward.device_lanes.device))
        return self.forward.tokens(self.builder.build(batch), mode) if graphs is None else graphs.tokens(batch, mode)

    def _candidates(self, batch: Batch) -> Candidates:
        return self.forward.candidates(self.builder.build(batch))

    def is_replayed(self, batch: Batch) -> bool:
        """Whether a captured graph computes this batch."""
        return self.graphs is not None and self.graphs.takes(batch)

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
