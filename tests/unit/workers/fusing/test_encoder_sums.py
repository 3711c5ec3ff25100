"""Sums with a residual go into the products before them, in blocks of every kind, and hidden states stay."""

from __future__ import annotations

from shutil import which

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from parquetry.workers.encoding.batching.row_batch import PackedBatch, pack
from parquetry.workers.encoding.batching.tuning import full_batch
from parquetry.workers.encoding.packed.block_layers import compile_encoder, layers_of
from parquetry.workers.encoding.packed.body import PackedBody
from parquetry.workers.fusing.encoder_block import fuse
from parquetry.workers.fusing.encoder_sums import put_sums_into_products
from parquetry.workers.request import EncodeRequest
from tests.unit.workers.encoding.encoder_families import tiny_model

#: one of each kind of block; XMOD's adapters break its blocks in two, granite scales what it adds, Gemma norms it, and
#: ALBERT's one layer is not in the list of blocks
SUMS = {
    **dict.fromkeys(("bert", "distilbert", "esm", "roberta-prelayernorm", "modernbert", "nomic_bert", "llama"), 2),
    **dict.fromkeys(("xmod",), 1),
    **dict.fromkeys(("granite", "gemma3_text", "albert"), 0),
}


def batch_of(*lens: int) -> PackedBatch:
    random = np.random.default_rng(len(lens))
    rows = [random.integers(5, 99, size).astype(np.int32) for size in lens]
    return pack([EncodeRequest(id=index, token_ids=row) for index, row in enumerate(rows)], with_types=False)


def with_biases(family: str) -> nn.Module:
    """A tiny model whose biases are not zero."""
    model = tiny_model(family)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return model


def hidden(body: PackedBody, *lens: int) -> Tensor:
    with torch.inference_mode():
        return body(batch_of(*lens))[0].clone()


@pytest.mark.parametrize(("family", "num_sums"), SUMS.items())
def test_families_keep_their_hidden_states(family: str, num_sums: int) -> None:
    torch.compiler.reset()
    model, counts = with_biases(family), []
    body = PackedBody.checked(model)
    want = [hidden(body, 9, 5, 3), hidden(body, 12, 7, 1, 4)]
    fuse(model)

    def compile_block(graph_module: fx.GraphModule, _inputs: list) -> object:
        counts.append(put_sums_into_products(graph_module))
        return graph_module.forward

    for layer in layers_of(model):
        layer.compile(dynamic=True, backend=compile_block)
    for found, expected in zip([hidden(body, 9, 5, 3), hidden(body, 12, 7, 1, 4)], want, strict=True):
        assert float((found - expected).norm() / expected.norm()) < 2e-3
    # the attention's product and the last one
    assert max(counts, default=0) == num_sums


@pytest.mark.skipif(not any(map(which, ("g++", "clang++"))), reason="inductor needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_the_compiled_block_copies_nothing() -> None:
    from torch._inductor.utils import run_and_get_code

    torch.compiler.reset()
    model = with_biases("bert")
    body = PackedBody.checked(model)
    want = hidden(body, 9, 5, 3)
    fuse(model)
    compile_encoder(model)
    found, codes = run_and_get_code(hidden, body, 9, 5, 3)
    np.testing.assert_allclose(found, want, atol=1e-4)
    (block,) = [code for code in codes if "add_linear_" in code]
    # the norms read the sums and make new tensors; no other kernel is left in the block
    assert block.count("add_linear_.default(") == 2
    assert block.count("cpp_fused_add_native_layer_norm") >= 2
    assert "cpp_fused_clone" not in block
    assert "cpp_fused_copy" not in block


class Block(nn.Module):
    """x + product(x), in ways that forbid adding onto x."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.linear, self.case = nn.Linear(4, 4), case

    def forward(self, x: Tensor) -> Tensor:
        match self.case:
            case "read again":
                return (x + self.linear(x.relu())) * x
            case "read through a view":
                seen = x.transpose(0, 1)
                return (x + self.linear(x.relu())) * seen.transpose(0, 1)
            case "product of itself":
                return x + self.linear(x)
            case "product of a view of itself":
                return x + self.linear(x[:])
            case "product wanted twice":
                product = self.linear(x.relu())
                return (x + product) * product
            case "broadcast":
                return x[:, :1] + self.linear(x.relu())
        return x + self.linear(x.relu())


@pytest.mark.parametrize(
    ("case", "count"),
    [
        ("read again", 0), ("read through a view", 0), ("product of itself", 0), ("product of a view of itself", 0),
        ("product wanted twice", 0), ("broadcast", 0), ("plain", 1),
    ],
)  # fmt: skip
def test_a_residual_that_is_needed_stays(case: str, count: int) -> None:
    torch.compiler.reset()
    counts: list[int] = []

    def compile_block(graph_module: fx.GraphModule, _inputs: list) -> object:
        counts.append(put_sums_into_products(graph_module))
        return graph_module.forward

    block, x = Block(case), torch.randn(3, 4)
    with torch.inference_mode():
        want = block(x.clone())
        found = torch.compile(block, backend=compile_block, dynamic=True)(x.clone())
    torch.testing.assert_close(found, want)
    assert counts == [count]


def test_a_full_batch_has_exactly_its_tokens() -> None:
    batch = full_batch(300, 50)
    assert batch.num_tokens == 300
    assert sorted(batch.lens.tolist()) == [44, 128, 128]
    assert batch.input_ids.max() < 50
