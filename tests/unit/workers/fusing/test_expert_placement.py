"""Placing tokens by expert and summing them up again, without kernels."""

from __future__ import annotations

import pytest
import torch

from parquetry.workers.fusing.expert_placement import place_experts, sum_experts
from tests.unit.workers.fusing.expert_batches import ROUTINGS, make_routing


@pytest.mark.parametrize("kind", ROUTINGS)
def test_rows_are_in_the_order_of_experts_and_of_pairs_within_one(kind: str) -> None:
    ids, _ = make_routing(kind, 23, 3, 5)
    pairs, rows, ends = place_experts(ids, 5)
    order = sorted(range(69), key=lambda pair: (int(ids.view(-1)[pair]), pair))
    assert pairs.tolist() == order and pairs[rows.long()].tolist() == list(range(69))
    assert ends.tolist() == [int((ids <= expert).sum()) for expert in range(5)]


@pytest.mark.parametrize("kind", ROUTINGS)
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_sum_is_that_of_float64(kind: str, has_bias: bool) -> None:
    ids, weights = make_routing(kind, 9, 3, 5)
    _, rows, ends = place_experts(ids, 5)
    products, bias = torch.randn(27, 8), torch.randn(5, 8) if has_bias else None
    # what the rows of other ranks' pairs hold is nobody's
    products[int(ends[-1]) :] = float("nan")
    want = torch.zeros(9, 8, dtype=torch.double)
    for token, top in enumerate(ids.tolist()):
        for number, expert in enumerate(top):
            if expert < 5:
                row = products[rows[3 * token + number]].double()
                row = row if bias is None else row + bias[expert].double()
                want[token] += row * weights[token, number].double()
    torch.testing.assert_close(
        sum_experts(products, rows, ends, weights, bias, ids).double(), want, rtol=1e-5, atol=1e-6
    )


def test_half_precision_is_rounded_once() -> None:
    """1 and three times a quarter of a step: summed in bfloat16 each would be lost."""
    ids = torch.tensor([[0, 1, 2, 3]])
    _, rows, ends = place_experts(ids, 4)
    products = torch.tensor([[1.0], [2**-9], [2**-9], [2**-8]], dtype=torch.bfloat16)
    out = sum_experts(products, rows, ends, torch.ones(1, 4), None, ids)
    assert out.dtype == torch.bfloat16 and out.item() == 1.0 + 2**-7


def test_the_operators_are_sound() -> None:
    """Their schemas, and that the compiler is told the shapes they return."""
    ids, weights = make_routing("even", 6, 2, 4)
    torch.library.opcheck(place_experts, (ids, 4))
    _, rows, ends = place_experts(ids, 4)
    torch.library.opcheck(sum_experts, (torch.randn(12, 8), rows, ends, weights, torch.randn(4, 8), ids))
