"""Values on their way from a device to the host, while the device goes on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Readback:
    """A copy of a tensor into pinned memory, begun at once and waited for when it is needed."""

    def __init__(self, values: Tensor) -> None:
        self._event = None
        self._host = values
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            # who waits must sleep: tokenizers need the core that would be spent on asking
            self._event = torch.cuda.Event(blocking=True)
            # the values may be on another card than the one that is current, of a model spread over several
            self._event.record(torch.cuda.current_stream(values.device))

    def wait(self) -> np.ndarray:
        """The values, in the tensor's shape."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()
