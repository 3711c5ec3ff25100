"""What a row asks for by itself, where rows say how they are answered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parquetry.workers.request import SamplingParams


@dataclass(frozen=True, eq=False)
class Asked:
    """Of one row: how its tokens are chosen, and how many answers it has."""

    num_samples: int = 1
    params: SamplingParams | None = None
    #: whether it names tools that the model may call
    has_tools: bool = False
    #: of a row with several texts, the token ids of each, (num_tokens,) int32
    texts: tuple[np.ndarray, ...] = ()
