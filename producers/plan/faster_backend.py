"""Whether another back end would serve a job faster, as far as it was measured; nothing chooses it by itself."""

from __future__ import annotations

from collections.abc import Iterator

from parquetry.schemas.spec.job import JobSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.forecast import Forecast

#: vLLM's output tokens a second over those of padded `generate`, in benchmarks/results/generation_*_20261122.md
TIMES = 48
MEASURED_ON = "an H100 for the Qwen3-0.6B shape"


def faster_backend(spec: JobSpec, checkpoint: Checkpoint) -> Iterator[str]:
    """A sentence for a job whose rows run padded, and whose model vLLM may know."""
    if spec.task != "generate" or spec.model.backend not in ("auto", "transformers") or checkpoint.is_encoder_decoder:
        return
    images = spec.prompt.image is not None
    if images or spec.model.backend == "transformers" or Forecast.of(spec.task, checkpoint.model_type).is_slow:
        yield (
            f"rows run padded; vLLM, where it knows {checkpoint.model_type}, wrote about {TIMES} times as many "
            f"tokens a second, measured on {MEASURED_ON}: model.backend: vllm, and `parquetry worker --queues vllm`"
        )
