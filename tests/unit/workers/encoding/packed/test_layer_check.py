"""The check of packed encoders finds every planted fault, and none where there is none."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import fx

from parquetry.schemas.errors import EngineRefusedError
from parquetry.workers.encoding.packed.body import PackedBody
from parquetry.workers.encoding.packed.layer_check import LayerCheck
from parquetry.workers.fusing.encoder_block import fuse
from parquetry.workers.fusing.encoder_sums import put_sums_into_products
from tests.models import byte_tokenizer
from tests.unit.workers.encoding.encoder_families import tiny_model
from tests.unit.workers.encoding.packed.planted_faults import FAULTS, planted

torch.set_num_threads(1)

#: in deeper random ones all tokens of a text become as good as equal, which hides a token in the place of another
DEEP = {"num_hidden_layers": 12}
MODELS = {
    "bert-float32": lambda: tiny_model("bert"),
    "bert-bfloat16": lambda: tiny_model("bert").to(torch.bfloat16),
    "bert-float16": lambda: tiny_model("bert").to(torch.float16),
    "deep-bfloat16": lambda: tiny_model("bert", **DEEP).to(torch.bfloat16),
    "modernbert-bfloat16": lambda: tiny_model("modernbert").to(torch.bfloat16),
    "albert-float16": lambda: tiny_model("albert").to(torch.float16),
    "xlm-roberta-bfloat16": lambda: tiny_model("xlm-roberta").to(torch.bfloat16),
    "qwen3-bfloat16": lambda: tiny_model("qwen3").to(torch.bfloat16),
    "mistral-float32": lambda: tiny_model("mistral"),
}


@pytest.fixture(scope="module", params=MODELS)
def packed(request: pytest.FixtureRequest) -> tuple[LayerCheck, PackedBody]:
    model = MODELS[request.param]()
    tokenizer = byte_tokenizer(chat=False).backend_tokenizer
    check = LayerCheck.of(model, tokenizer)
    return check, PackedBody.checked(model, check)


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_faults_are_found_and_right_layers_pass(packed: tuple[LayerCheck, PackedBody], fault: str | None) -> None:
    check, body = packed
    wrong = planted(fault, check.layers) if fault else nullcontext()
    expected = pytest.raises(EngineRefusedError, match="times its") if fault else nullcontext()
    with wrong, expected:
        check.require(body, "differs", num_tokens=300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "distilbert"])
def test_fused_kernels_pass_and_hide_no_fault(name: str, dtype: torch.dtype) -> None:
    model = tiny_model(name).to(dtype)
    check = LayerCheck.of(model)
    body = PackedBody.checked(model, check)
    assert fuse(model) > 0
    check.require(body, "fused kernels differ")
    with (
        planted("scaled_layer", check.layers),
        pytest.raises(EngineRefusedError, match="fused kernels differ: layer 2"),
    ):
        check.require(body, "fused kernels differ")


@pytest.mark.parametrize("family", ["bert", "modernbert", "llama"])
def test_blocks_that_add_onto_what_they_are_given_pass(family: str) -> None:
    torch.compiler.reset()
    model = tiny_model(family)
    check = LayerCheck.of(model)
    body = PackedBody.checked(model, check)
    counts: list[int] = []

    def compile_block(graph_module: fx.GraphModule, _inputs: list) -> object:
        counts.append(put_sums_into_products(graph_module))
        return graph_module.forward

    for layer in check.layers:
        layer.compile(dynamic=True, backend=compile_block)
    check.require(body, "compiled layers differ")
    assert max(counts) == 2
