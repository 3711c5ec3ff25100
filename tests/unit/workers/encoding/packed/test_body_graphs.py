"""A replay is held against its kernels token by token, in units of what other shapes of the same batch differ by."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from parquetry.schemas.errors import EngineRefusedError
from parquetry.workers.encoding.packed.body_graphs import require_equal


def states(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(50, 64) hidden states, and the same as another kernel rounds them."""
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, 64, generator=random)
    step = torch.finfo(dtype).eps
    return hidden.to(dtype), (hidden * (1 + step * torch.randn(50, 64, generator=random))).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_same_numbers_and_other_roundings_pass(dtype: torch.dtype) -> None:
    hidden, other = states(dtype)
    require_equal(hidden, hidden, hidden)
    require_equal(other, hidden, other)


def wrong_token(hidden: Tensor) -> Tensor:
    hidden[7] = hidden[8]
    return hidden


def one_number(hidden: Tensor) -> Tensor:
    hidden[30, 5] += 1
    return hidden


def no_number(hidden: Tensor) -> Tensor:
    hidden[0, 0] = torch.nan
    return hidden


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("fault", [wrong_token, one_number, no_number])
def test_one_wrong_token_among_many_is_found(fault, dtype: torch.dtype) -> None:
    hidden, other = states(dtype)
    with pytest.raises(EngineRefusedError, match="times the batch's noise, where 4 is allowed"):
        require_equal(fault(hidden.clone()), hidden, other)


def test_what_other_shapes_get_wrong_themselves_hides_nothing() -> None:
    """Noise is that of half of the tokens."""
    hidden, other = states(torch.bfloat16)
    other[:20] = 0
    with pytest.raises(EngineRefusedError):
        require_equal(wrong_token(hidden.clone()), hidden, other)
