"""Generation through vLLM on a CPU, beside stock transformers in float32."""

from __future__ import annotations

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed; run make test-vllm")

from tests.vllm.generation_suite import GenerationSuite, world  # noqa: F401

pytestmark = pytest.mark.filterwarnings("default")


class TestGeneration(GenerationSuite):
    device = "cpu"
