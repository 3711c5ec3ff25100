"""Vectors, labels and scores through vLLM on a CPU, beside stock transformers in float32."""

from __future__ import annotations

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed; run make test-vllm")

from tests.vllm.encoding_suite import EncodingSuite

pytestmark = pytest.mark.filterwarnings("default")


class TestEncoding(EncodingSuite):
    device = "cpu"
