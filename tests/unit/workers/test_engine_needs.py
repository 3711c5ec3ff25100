"""What a job needs of a worker, by the tables of those who load."""

from importlib.util import find_spec

import pytest

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.engine_needs import (
    ATTENTIONS,
    CAPABILITIES,
    CARD,
    QUANTIZATIONS,
    engine_needs,
    installed,
    lacking,
    of_card,
)
from parquetry.workers.loading import attention_choice
from parquetry.workers.loading.quantization.quantization import RECIPES


def test_the_tables_are_those_of_loading():
    assert {name: recipe.package for name, recipe in RECIPES.items()} == QUANTIZATIONS
    assert {name: recipe.capability for name, recipe in RECIPES.items() if recipe.capability} == CAPABILITIES
    assert attention_choice._MODULES == ATTENTIONS


@pytest.mark.parametrize(
    ("model", "needed"),
    [
        ({}, {"torch", "transformers", "accelerate"}),
        ({"backend": "onnxruntime"}, {"onnxruntime"}),
        ({"quantization": "nf4"}, {"torch", "transformers", "accelerate", "bitsandbytes"}),
        ({"attention": "triton"}, {"torch", "transformers", "accelerate", CARD}),
    ],
)
def test_needs(model, needed):
    assert set(engine_needs(ModelSpec(id="m", **model))) == needed


def test_a_card_that_is_too_old_lacks_fp8():
    needs = engine_needs(ModelSpec(id="m", quantization="fp8"))
    offers = ("torch", "transformers", "accelerate", "torchao")
    assert lacking(needs, [*offers, *of_card((9, 0))]) == ()
    assert lacking(needs, [*offers, *of_card((8, 0))]) == ("a CUDA card of compute capability 8.9",)


def test_what_is_installed_here_is_told():
    assert ("torch" in installed()) == (find_spec("torch") is not None)
