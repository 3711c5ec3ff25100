"""The runner of an engine that spans several ranks: rank 0 says what the step is, and all of them take it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parquetry.workers.engine import UnsupportedModel
from parquetry.workers.packed.forward import Sampled
from parquetry.workers.packed.runner import InFlight, ModelRunner
from parquetry.workers.packed.sampling.sampler import SamplingMode
from parquetry.workers.packed.scheduling.batch import Batch
from parquetry.workers.packed.startup import ON_ANOTHER_RANK
from parquetry.workers.parallel.channel import StepReceiver, StepSender
from parquetry.workers.parallel.group import RankGroup, RanksDivergedError

#: steps between two comparisons of the ranks' tokens
COMPARE_EVERY = 512
#: what rank 0 sends for the masks of a step it failed in
NO_MASKS = np.empty((0, 0), dtype=np.int32)
_NOBODY = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Step:
    """What every rank computes next."""

    batch: Batch
    mode: SamplingMode
    #: whether token masks follow while the logits are computed
    has_masks: bool


@dataclass(frozen=True)
class Compare:
    """All ranks compare the newest token of every lane."""


@contextmanager
def unanimous(group: RankGroup) -> Iterator[None]:
    """What one rank refuses in here, all refuse, with UnsupportedModel."""
    try:
        yield
    except (UnsupportedModel, RanksDivergedError) as error:
        group.all_agree(False)
        raise UnsupportedModel(str(error)) from error
    if not group.all_agree(True):
        raise UnsupportedModel(ON_ANOTHER_RANK)


class Masks:
    """The token masks of one step, which every rank takes or skips once, whatever becomes of the step."""

    def __init__(self, take: Callable[[], Tensor], skip: Callable[[], object]) -> None:
        self._take = take
        self._skip = skip
        self._is_taken = False

    def __call__(self) -> Tensor:
        self._is_taken = True
        return self._take()

    def skip(self) -> None:
        """For a step that failed: what was not taken is not left lying."""
        if not self._is_taken:
            self._skip()


def receive_masks(step_receiver: StepReceiver) -> Tensor:
    """The masks that rank 0 sends, (num_sampled, mask_width) int32. Raises OutOfMemoryError when it has none."""
    masks = step_receiver.receive()
    if masks is None or not masks.size:
        raise torch.OutOfMemoryError("rank 0 ran out of memory and made no masks")
    return torch.from_numpy(masks)


class RankGroupRunner(ModelRunner):
    """Every rank has one. Rank 0's is launched by the engine and tells the others; theirs `follow`."""

    step_sender: StepSender | None = None
    num_steps = 0

    @torch.inference_mode()
    def launch(
        self, batch: Batch, epochs: np.ndarray, mode: SamplingMode, allow: Callable[[], Tensor] | None = None
    ) -> InFlight:
        """As ModelRunner's. `is_void` of the result says whether any rank ran out of memory in the step."""
        self._tell(Step(batch, mode, allow is not None))
        masks = None if allow is None else Masks(lambda: self._share(allow()), lambda: self._tell(NO_MASKS))
        outputs, flag = self.take(batch, mode, masks)
        self.num_steps += 1
        if self.num_steps % COMPARE_EVERY == 0:
            self._tell(Compare())
            self.compare()
        if outputs is None:
            nothing = torch.empty(0, dtype=torch.int64, device=self.forward.device_lanes.device)
            return self.send_back(_NOBODY, _NOBODY, nothing, None, flag)
        return self.send_back(batch.sampled_lanes, epochs, *outputs, flag)

    def _tell(self, message: object) -> None:
        if self.step_sender is not None:
            self.step_sender.send(message)

    def _share(self, masks: Tensor) -> Tensor:
        self._tell(masks.numpy())
        return masks

    @torch.inference_mode()
    def follow(self, step_receiver: StepReceiver) -> None:
        """Take the steps of rank 0 until it goes away. Raises RanksDivergedError."""
        while (message := step_receiver.receive()) is not None:
            if isinstance(message, Compare):
                self.compare()
            else:
                masks = (
                    Masks(lambda: receive_masks(step_receiver), step_receiver.receive) if message.has_masks else None
                )
                self.take(message.batch, message.mode, masks)

    def take(self, batch: Batch, mode: SamplingMode, masks: Masks | None) -> tuple[Sampled | None, Tensor | None]:
        """One step of this rank: its outputs, None after an out-of-memory; and how many ranks had one.

        A replayed graph allocates nothing, so that nobody asks. What else there is may run out of memory.
        """
        is_replayed = self.is_replayed(batch)
        if is_replayed:
            self._ensure_captured(batch, mode if masks is None else None)
        if is_replayed and masks is None:
            return self.compute(batch, mode, None), None
        self.forward.group.begin(is_replayed=is_replayed)
        outputs = self._try_compute(batch, mode, masks)
        try:
            return outputs, self._settle(batch, masks, failed=outputs is None)
        except torch.OutOfMemoryError as error:
            raise RuntimeError("out of memory, with no room left to let the other ranks go on") from error

    def _settle(self, batch: Batch, masks: Masks | None, *, failed: bool) -> Tensor:
        """Do for the other ranks what a failed step left undone; returns how many failed."""
        if failed:
            # in this order: rank 0 may wait for the exchange before it makes the masks
            self.forward.group.drain(batch.num_tokens, len(batch.sampled_lanes))
            if masks is not None:
                masks.skip()
        return self.forward.group.count_failed(failed=failed)

    def _ensure_captured(self, batch: Batch, mode: SamplingMode | None) -> None:
        """Raise RuntimeError when memory runs out: a capture cannot be drained, so the engine has to end."""
        assert self.graphs is not None, "only a batch that a graph computes is captured ahead"
        try:
            self.graphs.ensure(batch, mode)
        except torch.OutOfMemoryError as error:
            raise RuntimeError("out of memory while a decode step was captured; lower model.max_memory") from error

    def _try_compute(self, batch: Batch, mode: SamplingMode, masks: Masks | None) -> Sampled | None:
        """Tokens and log-probabilities, None after an out-of-memory, whose tensors are gone by then."""
        try:
            return self.compute(batch, mode, masks)
        except torch.OutOfMemoryError:
            pass
        if self.forward.device_lanes.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    @torch.inference_mode()
    def learn_exchanges(self) -> None:
        """Note what one forward pass exchanges. All ranks, before the first step."""
        self.forward.group.learn()
        # more tokens than sampled rows, so that the two can be told apart
        self.forward.logits(self.builder.rehearsal(4, 1, 4))
        self.forward.group.learned(4)

    def compare(self) -> None:
        """Raise RanksDivergedError unless the newest token of every lane is the same on all ranks."""
        self.forward.group.require_equal(self.forward.device_lanes.tokens[:-1], "the tokens")
