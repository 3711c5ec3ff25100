"""Every kind of experts transformers has gives through our operators what its class computes by itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.moe import use_experts_implementation

from parquetry.workers.fusing.expert_gates import OPEN, Gate
from parquetry.workers.fusing.experts import IMPLEMENTATION, experts_forward, has_experts, use_expert_kernels
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.packed.startup import Changes, use_experts
from tests.unit.workers.fusing.expert_batches import ROUTINGS, make_routing
from tests.unit.workers.packed.packed_families import (
    make_prompts,
    make_requests,
    reference_outputs,
    run_all,
    tiny_model,
)

SILU = Gate("silu", True)
GPT_OSS = Gate("silu", True, True, alpha=1.702, limit=7.0, shift=1.0)
SIZES = {"hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 24, "hidden_act": "silu"}
#: model type -> name of its class, what the class's config needs, and the gate it turns out to have
KINDS: dict[str, tuple[str, dict[str, Any], Gate | None]] = {
    "qwen3_moe": ("Qwen3MoeExperts", {"num_experts": 5}, SILU),
    "qwen2_moe": ("Qwen2MoeExperts", {"num_experts": 5}, SILU),
    "mixtral": ("MixtralExperts", {"num_local_experts": 5}, SILU),
    "olmoe": ("OlmoeExperts", {"num_experts": 5, "num_local_experts": 5}, SILU),
    "deepseek_v3": ("DeepseekV3Experts", {"n_routed_experts": 5, "num_local_experts": 5}, SILU),
    "granitemoe": ("GraniteMoeExperts", {"num_local_experts": 5}, SILU),
    "gpt_oss": ("GptOssExperts", {"num_local_experts": 5, "swiglu_alpha": 1.702, "swiglu_limit": 7.0}, GPT_OSS),
    "deepseek_v4": (
        "DeepseekV4Experts", {"n_routed_experts": 5, "num_local_experts": 5, "swiglu_limit": 0.5},
        Gate("silu", True, limit=0.5),
    ),
    "aria": ("AriaExperts", {"moe_num_experts": 5, "num_local_experts": 5}, SILU),
    "nemotron_h": (
        "NemotronHExperts", {"n_routed_experts": 5, "moe_latent_size": None, "mlp_hidden_act": "relu2"}, Gate("relu2"),
    ),
    "muse_spark": ("MuseSparkExperts", {"num_local_experts": 5, "moe_hidden_size": 16, "post_norm_eps": 1e-6}, SILU),
}  # fmt: skip


def make_experts(kind: str) -> nn.Module:
    """Five experts of one kind, with weights of a size at which limits matter."""
    name, sizes, _ = KINDS[kind]
    try:
        module = import_module(f"transformers.models.{kind}.modeling_{kind}")
        make = getattr(module, name)
    except (ImportError, AttributeError):
        pytest.skip(f"transformers has no {name} here")
    config = SimpleNamespace(**SIZES, **sizes, _experts_implementation="grouped_mm")
    experts = make(config)
    if not hasattr(experts, "is_concatenated"):
        pytest.skip(f"{name} is not dispatched through the interface here")
    generator = torch.Generator().manual_seed(0)
    for parameter in experts.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return experts


class Model(nn.Module):
    """As much of a model as the interface needs."""

    def __init__(self, experts: nn.Module) -> None:
        super().__init__()
        self.experts = experts

    def get_experts_implementation(self) -> dict[str, str]:
        return {"": self.experts.config._experts_implementation}

    def set_experts_implementation(self, name: str | dict[str, str]) -> None:
        self.experts.config._experts_implementation = name[""] if isinstance(name, dict) else name


def by_class(experts: nn.Module, *batch: torch.Tensor) -> torch.Tensor:
    """The class's own loop over its experts; other ranks' have no weight, and not every version can skip them."""
    x, ids, weights = batch
    batch = (x, ids.masked_fill(ids >= experts.num_experts, 0), weights)
    ours, experts.config._experts_implementation = experts.config._experts_implementation, "eager"
    out = experts(*batch)
    experts.config._experts_implementation = ours
    return out


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_a_class_computes_what_it_computes_by_itself(kind: str) -> None:
    experts = make_experts(kind)
    undo = use_expert_kernels(Model(experts))
    assert undo is not None and experts.config._experts_implementation == IMPLEMENTATION
    gate = KINDS[kind][2]
    assert experts.expert_gate == (gate and gate.word)
    for routing in ROUTINGS[:3]:
        for num_tokens in (1, 2, 37):
            x = torch.randn(num_tokens, 16)
            ids, weights = make_routing(routing, num_tokens, 3, 5)
            torch.testing.assert_close(
                experts(x, ids, weights), by_class(experts, x, ids, weights), rtol=2e-4, atol=2e-4
            )
    undo()
    assert experts.config._experts_implementation == "grouped_mm" and not hasattr(experts, "expert_gate")


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["qwen3_moe", "muse_spark", "aria"])
def test_pairs_of_other_ranks_count_for_nothing(kind: str) -> None:
    experts = make_experts(kind)
    experts._is_expert_parallel = True
    use_expert_kernels(Model(experts))
    x, (ids, weights) = torch.randn(20, 16), make_routing("sentinels", 20, 3, 5)
    torch.testing.assert_close(experts(x, ids, weights), by_class(experts, x, ids, weights), rtol=2e-4, atol=2e-4)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "nemotron_h"])
def test_a_gate_that_is_not_known_stays_the_class_s_own(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    experts = make_experts(kind)
    experts.act_fn = nn.Tanh()
    if kind == "gpt_oss":
        monkeypatch.setattr(type(experts), "_apply_gate", lambda self, rows: rows[..., ::2] * rows[..., 1::2].cos())
    use_expert_kernels(Model(experts))
    assert experts.expert_gate is None
    x, (ids, weights) = torch.randn(20, 16), make_routing("skewed", 20, 3, 5)
    torch.testing.assert_close(experts(x, ids, weights), by_class(experts, x, ids, weights), rtol=2e-4, atol=2e-4)


@torch.inference_mode()
def test_a_token_does_not_depend_on_its_neighbours() -> None:
    experts = make_experts("qwen3_moe")
    use_expert_kernels(Model(experts))
    x, (ids, weights) = torch.randn(6, 16), make_routing("even", 6, 2, 5)
    want = experts(x, ids, weights)[0]
    assert torch.equal(experts(x, ids, weights)[0], want)
    x[1:] = float("nan")
    assert experts(x, ids, weights)[0].isfinite().all()


@torch.inference_mode()
def test_hidden_states_keep_their_dtype() -> None:
    experts = make_experts("mixtral").to(torch.bfloat16)
    use_expert_kernels(Model(experts))
    ids, weights = make_routing("even", 4, 2, 5)
    out = experts(torch.randn(4, 16), ids, weights)
    assert out.dtype == torch.float32


MODELS = ("qwen3_moe", "mixtral", "gpt_oss", "deepseek_v3")


@pytest.mark.parametrize("family", MODELS)
def test_a_model_writes_the_tokens_of_its_own_generate(family: str) -> None:
    model = tiny_model(family)
    prompts = make_prompts(3, 17, 40, 1)
    expected = reference_outputs(model, prompts, 8)
    engine = PackedEngine(model, None, [], PackedOptions(block_size=8, token_budget=24, num_blocks=40))
    undo = ExitStack()
    changes = Changes(engine.runner.forward, engine.components.checks, undo)
    changes.make("experts kernels", partial(use_experts, model))
    assert changes.taken_back == {}
    assert model.config._experts_implementation == IMPLEMENTATION
    done = run_all(engine, make_requests(prompts, max_new_tokens=8))
    assert [done[i].output_ids.tolist() for i in range(len(prompts))] == expected
    undo.close()
    assert model.config._experts_implementation == "grouped_mm"


def change(model: PreTrainedModel) -> Callable[[], None]:
    undo = use_expert_kernels(model)
    assert undo is not None
    return undo


@torch.inference_mode()
def test_layers_of_one_kind_are_compiled_once_with_any_number_of_tokens() -> None:
    model = tiny_model("gpt_oss")
    ids = torch.arange(3, 20)[None]
    want = model(ids).logits
    change(model)
    graphs: list[torch.fx.GraphModule] = []

    def note(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    for layer in model.model.layers:
        layer.mlp.experts.compile(dynamic=True, backend=note, fullgraph=True)
    torch.testing.assert_close(model(ids).logits, want, rtol=1e-3, atol=1e-3)
    model(ids[:, :9])
    assert len(graphs) == 1
    called = {str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"}
    assert called >= {f"parquetry.{name}" for name in ("place_experts", "multiply_experts", "sum_experts")}
    # numbers of a gate are constants
    assert not any(
        isinstance(node.meta["example_value"], float | torch.SymFloat)
        for node in graphs[0].graph.find_nodes(op="placeholder")
    )


def test_models_without_experts_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model("llama")
    assert not has_experts(model)
    with caplog.at_level(logging.INFO):
        assert use_expert_kernels(model) is None
    assert caplog.messages == ["experts run through transformers' own products: the model has none"]


def test_an_implementation_that_was_asked_for_stays(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model("qwen3_moe")
    model.set_experts_implementation("eager")
    assert has_experts(model)
    with caplog.at_level(logging.INFO):
        assert use_expert_kernels(model) is None
    assert caplog.messages[0].endswith("the model was loaded with the implementation eager")
    assert model.config._experts_implementation == "eager"


def test_quantized_experts_stay_with_their_own_products(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model("mixtral")
    experts = model.model.layers[1].mlp.experts
    experts.down_proj = nn.Parameter(experts.down_proj.to(torch.float8_e4m3fn), requires_grad=False)
    with caplog.at_level(logging.INFO):
        assert use_expert_kernels(model) is None
    assert caplog.messages[0].endswith("their weights are quantized")
    assert model.config._experts_implementation == "grouped_mm"


@torch.inference_mode()
def test_layers_that_nobody_prepared_run_as_before() -> None:
    """Such as one that was put into the model later: it has our name in its config, and nothing else of ours."""
    experts = make_experts("qwen3_moe")
    x, (ids, weights) = torch.randn(4, 16), make_routing("even", 4, 2, 5)
    torch.testing.assert_close(experts_forward(experts, x, ids, weights), by_class(experts, x, ids, weights))


def test_the_operator_of_products_is_sound() -> None:
    """Its schema, and that the compiler is told the shape it returns."""
    ids, _ = make_routing("even", 6, 2, 4)
    pairs, _, ends = torch.ops.parquetry.place_experts(ids, 4)
    x, weight, bias = torch.randn(6, 8), torch.randn(4, 8, 12), torch.randn(4, 12)
    arguments = (x, weight, bias, pairs, ends, True, 2, GPT_OSS.word)
    torch.library.opcheck(torch.ops.parquetry.multiply_experts.default, arguments)
    rows = torch.randn(12, 12)
    torch.library.opcheck(
        torch.ops.parquetry.multiply_experts.default, (rows, weight, None, pairs, ends, False, 0, OPEN)
    )


def test_the_interface_still_offers_what_ours_replaces() -> None:
    """A class of any kind can be decorated and finds our name, once it is registered."""
    change(tiny_model("qwen3_moe"))

    @use_experts_implementation
    class Doubled(nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()

        def forward(self, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            return 2 * x

    assert Doubled(SimpleNamespace(_experts_implementation="eager"))(torch.ones(1)).item() == 2.0
