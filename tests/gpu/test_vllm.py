"""vLLM as a back end on a CUDA card: the suites of tests/vllm, with graphs, and a real model beside transformers.

    VLLM_USE_FLASHINFER_SAMPLER=0 python -m pytest -m gpu tests/gpu/test_vllm.py

PARQUETRY_TEST_MODEL names the folder of SmolLM2-135M-Instruct where `make demo` did not write it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed")

from transformers import AutoModelForCausalLM

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.engine_spec import EngineSpec
from tests.vllm.encoding_suite import EncodingSuite
from tests.vllm.generation_suite import GenerationSuite, complete, request, world  # noqa: F401

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("default"),
]
SMOLLM = Path(os.environ.get("PARQUETRY_TEST_MODEL", "data/models/SmolLM2-135M-Instruct"))
#: part of the spread of a step's logits by which bfloat16 may misjudge one
TIE = 0.06


class TestGeneration(GenerationSuite):
    device = "cuda:0"


class TestEncoding(EncodingSuite):
    device = "cuda:0"


@pytest.mark.skipif(not SMOLLM.exists(), reason=f"{SMOLLM} is not there; run make demo")
def test_smollm_writes_what_transformers_writes():
    from parquetry.workers.vllm.loading import load_vllm

    model = ModelSpec(id=str(SMOLLM), backend="vllm", dtype="bfloat16")
    engine = load_vllm(EngineSpec(task="generate", model_path=str(SMOLLM), model=model, device="cuda:0"))
    rng = np.random.default_rng(0)
    prompts = [rng.integers(10, 40_000, length).tolist() for length in (5, 300, 33, 64, 700, 17)]
    done = complete(engine, [request(number, ids, max_new_tokens=48) for number, ids in enumerate(prompts)])
    engine.close()
    stock = AutoModelForCausalLM.from_pretrained(SMOLLM, dtype=torch.bfloat16).to("cuda").eval()
    for number, ids in enumerate(prompts):
        outputs = done[number].output_ids.astype(np.int64)
        row = torch.tensor([[*ids, *outputs.tolist()]], device="cuda")
        with torch.inference_mode():
            logits = stock(row).logits[0, len(ids) - 1 : -1].float().cpu()
        gaps = logits.amax(-1) - logits.gather(-1, torch.from_numpy(outputs)[:, None])[:, 0]
        assert float((gaps / logits.std(-1)).max()) < TIE
