"""The kernels of experts against the operators without them: on a CUDA device, else in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.workers.fusing.expert_batches import ROUTINGS, make_routing
from tests.unit.workers.fusing.triton_device import require_triton

DEVICE = require_triton()

from parquetry.workers.fusing import expert_kernels  # noqa: E402
from parquetry.workers.fusing.expert_choice import choose_experts  # noqa: E402
from parquetry.workers.fusing.expert_choice_kernel import choose  # noqa: E402
from parquetry.workers.fusing.expert_gates import ACTIVATIONS, Gate, apply_gate  # noqa: E402
from parquetry.workers.fusing.expert_placement import place_experts, sum_experts  # noqa: E402
from parquetry.workers.fusing.expert_product_kernel import LAUNCHES, Launch, choose_launch, fitting, multiply  # noqa: E402
from parquetry.workers.fusing.expert_products import multiply_one_by_one  # noqa: E402
from parquetry.workers.packed.checks.sharing_check import relative_error  # noqa: E402

#: the interpreter computes with numpy, which warns of what kernels do on purpose
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}:triton.runtime.interpreter")
    for kind in ("DeprecationWarning", "RuntimeWarning")
]
# cuBLAS has one, and it is not what is tested here
pytestmark.append(pytest.mark.filterwarnings("ignore:.*[Dd]eterministic:UserWarning"))
#: the interpreter keeps bfloat16 as integers and multiplies those
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16
#: relative error that rounding explains
LIMIT = 4e-3 if DEVICE == "cuda" else 5e-4
GPT_OSS = Gate("silu", True, True, alpha=1.702, limit=7.0, shift=1.0)


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Memory that nobody wrote is NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.ones(1, device=DEVICE).new_empty(1000).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


def on_device(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to(DEVICE) for tensor in tensors]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(ROUTINGS),
    num_tokens=st.integers(1, 400),
    top_k=st.integers(1, 4),
    num_experts=st.integers(4, 9),
)
def test_any_batch_is_placed_as_without_kernels(kind: str, num_tokens: int, top_k: int, num_experts: int) -> None:
    ids, _ = make_routing(kind, num_tokens, top_k, num_experts)
    got, want = expert_kernels.place(ids.to(DEVICE), num_experts), place_experts(ids, num_experts)
    assert all(torch.equal(mine.cpu(), theirs) for mine, theirs in zip(got, want, strict=True))


@pytest.mark.parametrize("kind", ROUTINGS)
def test_many_pairs_are_counted_in_tiles(kind: str) -> None:
    """Three tiles, the last of them ragged; and int32 ids."""
    ids, _ = make_routing(kind, 2100, 4, 6)
    got, want = expert_kernels.place(ids.to(DEVICE, torch.int32), 6), place_experts(ids, 6)
    assert all(torch.equal(mine.cpu(), theirs) for mine, theirs in zip(got, want, strict=True))


def test_tiles_grow_so_that_their_counts_fit() -> None:
    ids, _ = make_routing("skewed", 70_000, 1, 2)
    got, want = expert_kernels.place(ids.to(DEVICE), 2), place_experts(ids, 2)
    assert all(torch.equal(mine.cpu(), theirs) for mine, theirs in zip(got, want, strict=True))


@pytest.mark.parametrize("kind", ROUTINGS)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_sums_are_those_without_kernels(kind: str, has_bias: bool, dtype: torch.dtype) -> None:
    ids, weights = make_routing(kind, 7, 3, 5)
    _, rows, ends = place_experts(ids, 5)
    products, bias = torch.randn(21, 1100).to(dtype), torch.randn(5, 1100).to(dtype) if has_bias else None
    products[int(ends[-1]) :] = float("nan")
    want = sum_experts(products, rows, ends, weights, bias, ids)
    bias = None if bias is None else bias.to(DEVICE)
    products, rows, ends, weights, ids = on_device(products, rows, ends, weights.to(dtype), ids)
    got = expert_kernels.weigh(products, rows, ends, weights, bias, ids)
    assert got.dtype == dtype and relative_error(got.cpu(), want) < 3 * LIMIT


@pytest.mark.parametrize("gate", [*(Gate(name) for name in ACTIVATIONS), GPT_OSS, Gate("gelu", True, limit=1.0)])
def test_every_gate_follows_its_product(gate: Gate) -> None:
    """One input that is 1, so that the products are the weights."""
    values = torch.linspace(-9, 9, 256)
    pairs, ends = torch.zeros(1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    x, weight, pairs, ends = on_device(torch.ones(1, 1), values.view(1, 1, -1), pairs, ends)
    got = multiply(x, weight, None, pairs, ends, 1, gate, Launch(16, 64, 16, 4, 2))
    torch.testing.assert_close(got.cpu(), apply_gate(values[None], gate), rtol=2e-3, atol=2e-3)


def test_nan_does_not_hide_behind_a_limit() -> None:
    bias = torch.tensor([[float("nan"), 1.0, 1.0, float("nan"), 1.0, 1.0]]).to(HALF)
    pairs, ends = torch.zeros(1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    x, weight, bias, pairs, ends = on_device(
        torch.ones(1, 8).to(HALF), torch.zeros(1, 8, 6).to(HALF), bias, pairs, ends
    )
    assert multiply(x, weight, bias, pairs, ends, 1, GPT_OSS).isnan().tolist() == [[True, True, False]]


def product_error(
    kind: str, num_tokens: int, gate: Gate, *, top_k: int = 2, is_transposed: bool = False, has_bias: bool = False,
    width: int = 72, num_inputs: int = 88, is_gathered: bool = True, number: int | None = None,
) -> float:  # fmt: skip
    """How far the kernel is from one product an expert in float32."""
    ids, _ = make_routing(kind, num_tokens, top_k, 5)
    pairs, _, ends = place_experts(ids, 5)
    x = torch.randn(num_tokens if is_gathered else len(pairs), num_inputs).to(HALF)
    weight = torch.randn(5, *((num_inputs, width) if is_transposed else (width, num_inputs))).to(HALF) * 0.1
    weight = weight if is_transposed else weight.transpose(1, 2)
    bias = torch.randn(5, width).to(HALF) if has_bias else None
    gathered = top_k if is_gathered else 0
    wide = None if bias is None else bias.float()
    want = multiply_one_by_one(x.float(), weight.float(), wide, pairs, ends, gathered, gate)
    bias = None if bias is None else bias.to(DEVICE)
    x, weight, pairs, ends = on_device(x, weight, pairs, ends)
    launch = None if number is None else LAUNCHES[number]
    got = multiply(x, weight, bias, pairs, ends, gathered, gate, launch)
    assert got.dtype == HALF and got.shape == want.shape
    written = int(ends[-1])
    return relative_error(got[:written].cpu(), want[:written])


@pytest.mark.parametrize("kind", ROUTINGS)
@pytest.mark.parametrize("gate", [Gate("silu", True), GPT_OSS, Gate("relu2"), Gate()])
def test_products_are_those_in_float32(kind: str, gate: Gate) -> None:
    for has_bias in (True, False):
        assert product_error(kind, 9, gate, has_bias=has_bias) < LIMIT
    assert product_error(kind, 9, gate, is_transposed=True, has_bias=True) < LIMIT
    assert product_error(kind, 9, gate, is_gathered=False) < LIMIT


@pytest.mark.parametrize("number", range(len(LAUNCHES)))
def test_every_launch_with_experts_busier_than_a_tile(number: int) -> None:
    assert product_error("same", 150, Gate("silu", True), top_k=1, width=300, number=number) < LIMIT
    assert product_error("skewed", 300, Gate(), number=number) < LIMIT


@pytest.mark.parametrize("gate", [GPT_OSS, Gate()])
def test_turned_products_are_the_same(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = [launch._replace(is_turned=not launch.is_turned) for launch in LAUNCHES]
    monkeypatch.setattr("parquetry.workers.fusing.expert_product_kernel.LAUNCHES", turned)
    for number_of_tokens in (9, 150):
        assert product_error("skewed", number_of_tokens, gate, has_bias=True) < LIMIT


def test_launches_depend_on_shapes_alone() -> None:
    # 1, 64, 256, 512, 1,024 and 1,025 rows of 8 experts in 128
    chosen = [LAUNCHES.index(choose_launch(8 * rows, 128)) for rows in (1, 64, 256, 512, 1024, 1025)]
    assert chosen == [0, 0, 1, 2, 3, 4]


def test_loads_in_flight_fit_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(shared_memory_per_block_optin=101_376)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: properties)
    assert [fitting(launch, torch.device("cuda")).num_stages for launch in LAUNCHES] == [4, 4, 3, 3, 2]


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize(("width", "k"), [(8, 2), (60, 4), (128, 8), (256, 8), (5, 5)])
def test_choices_are_those_without_kernels(width: int, k: int, dtype: torch.dtype) -> None:
    scores = torch.randn(2, 9, width).to(dtype)
    # equal numbers, whole rows of them, and what a router masks
    scores[0, 1], scores[0, 2, ::2], scores[0, 3, 1:] = 0.5, 1.25, float("-inf")
    want = choose_experts(scores, k)
    got = choose(scores.to(DEVICE), k)
    assert all(torch.equal(mine.cpu(), theirs) for mine, theirs in zip(got, want, strict=True))


def test_a_broken_row_still_chooses_different_experts() -> None:
    values, places = choose(torch.full((1, 6), float("nan"), device=DEVICE), 4)
    assert values.isnan().all() and places.tolist() == [[0, 1, 2, 3]]
