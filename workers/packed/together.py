"""The runner of an engine that spans several ranks: rank 0 says what the step is, and all of them take it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from workers.packed.probe import UnsupportedModel
from workers.packed.runner import InFlight, ModelRunner
from workers.packed.sampler import SamplingMode
from workers.packed.scheduler import Batch
from workers.packed.startup import ON_ANOTHER_RANK
from workers.parallel.channel import Inbox, Outbox
from workers.parallel.group import RankGroup, RanksDivergedError

#: steps between two comparisons of the ranks' tokens
COMPARE_EVERY = 512
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


class GroupRunner(ModelRunner):
    """Every rank has one. Rank 0's is launched by the engine and tells the others; theirs `follow`."""

    outbox: Outbox | None = None
    num_steps = 0

    @torch.inference_mode()
    def launch(
        self, batch: Batch, epochs: np.ndarray, mode: SamplingMode, allow: Callable[[], Tensor] | None = None
    ) -> InFlight:
        """As ModelRunner's. `is_void` of the result says whether any rank ran out of memory in the step."""
        self._tell(Step(batch, mode, allow is not None))
        in_flight = self._take(batch, epochs, mode, None if allow is None else partial(self._share, allow))
        self.num_steps += 1
        if self.num_steps % COMPARE_EVERY == 0:
            self._tell(Compare())
            self.compare()
        return in_flight

    def _tell(self, message: object) -> None:
        if self.outbox is not None:
            self.outbox.send(message)

    def _share(self, allow: Callable[[], Tensor]) -> Tensor:
        masks = allow()
        self._tell(masks.numpy())
        return masks

    @torch.inference_mode()
    def follow(self, inbox: Inbox) -> None:
        """Take the steps of rank 0 until it goes away. Raises RanksDivergedError."""
        while (message := inbox.receive()) is not None:
            if isinstance(message, Compare):
                self.compare()
                continue
            allow = (lambda: torch.from_numpy(inbox.receive())) if message.has_masks else None
            self._take(message.batch, _NOBODY, message.mode, allow)

    def _take(
        self, batch: Batch, epochs: np.ndarray, mode: SamplingMode, allow: Callable[[], Tensor] | None
    ) -> InFlight:
        """One step of this rank. A replayed graph allocates nothing; what else there is may run out of memory."""
        if allow is None and self.is_replayed(batch):
            return self.send_back(batch.sampled_lanes, epochs, *self.compute(batch, mode, None))
        self.group.begin()
        outputs = self._try_compute(batch, mode, allow)
        flag = self.group.finish(batch.num_tokens, len(batch.sampled_lanes), failed=outputs is None)
        if outputs is None:
            if self.lanes.device.type == "cuda":
                torch.cuda.empty_cache()
            nothing = torch.empty(0, dtype=torch.int64, device=self.lanes.device)
            return self.send_back(_NOBODY, _NOBODY, nothing, None, flag)
        return self.send_back(batch.sampled_lanes, epochs, *outputs, flag)

    def _try_compute(
        self, batch: Batch, mode: SamplingMode, allow: Callable[[], Tensor] | None
    ) -> tuple[Tensor, Tensor | None] | None:
        """Tokens and log-probabilities, None after an out-of-memory, whose tensors are gone by then."""
        try:
            return self.compute(batch, mode, allow)
        except torch.OutOfMemoryError:
            return None

    @torch.inference_mode()
    def learn_exchanges(self) -> None:
        """Note what one forward pass exchanges. All ranks, before the first step."""
        self.group.learn()
        # more tokens than sampled rows, so that the two can be told apart
        self.forward(self.builder.rehearsal(4, 1, 4))
        self.group.learned(4)

    def compare(self) -> None:
        """Raise RanksDivergedError unless the newest token of every lane is the same on all ranks."""
        self.group.require_equal(self.lanes.tokens[:-1], "the tokens")
