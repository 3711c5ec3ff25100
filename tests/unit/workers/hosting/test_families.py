"""A handful of the sweep of tests/families: one family for each way in which models are served."""

from __future__ import annotations

import warnings

import pytest

from tests.families.family import Family
from tests.families.verdict import judge

WAYS = {
    ("generate", "llama"): "packed",
    # windows of its masks alone; a window for some layers
    ("generate", "qwen2_moe"): "packed",
    ("generate", "gpt_oss"): "packed",
    ("generate", "bloom"): "padded",
    # the cache keeps a window that the masks do not show
    ("generate", "moshi"): "padded",
    # layers that give several states a token
    ("generate", "gemma3n_text"): "padded",
    ("generate", "deepseek_v32"): "equal lengths only",
    ("generate", "rwkv"): "one row at a time",
    ("classify", "roberta"): "packed",
    ("classify", "fnet"): "equal lengths only",
    ("label tokens", "xlnet"): "padded",
    ("embed", "t5"): "padded",
}


@pytest.mark.parametrize(("task", "kind"), WAYS, ids="-".join)
def test_a_family_answers_as_it_does_row_by_row(task, kind, tmp_path):
    with warnings.catch_warnings():
        # of the families' own code
        warnings.simplefilter("ignore")
        verdict = judge(Family(kind, task), tmp_path)
    assert (verdict.way, verdict.reason) == (WAYS[task, kind], verdict.reason)
