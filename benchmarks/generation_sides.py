"""One engine on one workload, in a process of its own; generation.py starts it and reads the last line it prints."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from four_bit_model import SECTION
from models import Experts, make_config, make_model
from workloads import WORKLOADS, Workload

Round = tuple[float, int]


def run_packed(workload: Workload, num_rounds: int, options: dict[str, Any]) -> Iterator[Round | dict]:
    """Our engine. It is told the job's limit; the true lengths end rows where an end-of-sequence token would."""
    from parquetry.workers.packed.options import PackedOptions
    from parquetry.workers.packed.packed_engine import PackedEngine
    from parquetry.workers.packed.scheduling.outputs import Outputs
    from parquetry.workers.request import GenerationRequest, SamplingParams

    class HiddenLengths(Outputs):
        """Rows end at lengths the scheduler cannot read."""

        lens = np.asarray(workload.output_lens)

        def _matched(self, lanes: np.ndarray, tokens: np.ndarray, stopped: np.ndarray) -> np.ndarray:
            return self.lane_table.num_outputs[lanes] >= self.lens[self.lane_table.request_id[lanes] % len(self.lens)]

    start = time.perf_counter()
    model = make_model(workload.model, quantization=workload.quantization)
    engine = PackedEngine(model, None, (), PackedOptions(**options))
    engine.outputs = HiddenLengths(engine.lane_table, np.empty(0, dtype=np.int32))
    yield {"startup_s": time.perf_counter() - start, **engine.describe()}
    params = SamplingParams(max_new_tokens=workload.max_new_tokens)
    prompts = [np.asarray(ids, dtype=np.int32) for ids in workload.prompts]
    for number in range(num_rounds):
        engine.pool.forget_all()
        start = time.perf_counter()
        first = number * len(prompts)
        engine.add([GenerationRequest(id=first + i, prompt_ids=ids, params=params) for i, ids in enumerate(prompts)])
        num_tokens = 0
        while engine.num_unfinished:
            num_tokens += sum(len(completion.output_ids) for completion in engine.step())
        yield time.perf_counter() - start, num_tokens
    yield {key: round(value, 3) for key, value in engine.stats().items()}


@torch.no_grad()
def draw_weights(model: torch.nn.Module) -> None:
    """Weights as a new model of transformers has them. vLLM's own dummies are all near nothing, norms and biases too:
    the biases of routers then choose the same few experts for every token, and the rest are never read.
    """
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point() or parameter.element_size() == 1 or "scale" in name:
            continue
        if "norm" in name:
            parameter.fill_(1.0)
        elif "bias" in name or "sinks" in name:
            parameter.zero_()
        else:
            parameter.normal_(0.0, 0.02)


def run_vllm(workload: Workload, num_rounds: int, options: dict[str, Any]) -> Iterator[Round | dict]:
    """vLLM's offline entry point, dummy weights, no detokenization; its scheduler does not read max_tokens."""
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    import vllm

    folder = os.path.join(tempfile.gettempdir(), "parquetry-bench", f"{workload.model}-{workload.quantization}")
    config = make_config(workload.model)
    if workload.quantization == "int4":
        # it reads from the folder what its weights are, and takes its fastest kernel for them
        config.quantization_config = SECTION
    elif workload.quantization != "none":
        options = {**options, "quantization": workload.quantization}
    config.save_pretrained(folder)
    longest = min(config.max_position_embeddings, 32768)
    start = time.perf_counter()
    llm = vllm.LLM(
        model=folder, load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", max_model_len=longest,
        gpu_memory_utilization=0.9, seed=0, enable_prefix_caching=workload.shared_prefix > 0, **options,
    )  # fmt: skip
    llm.apply_model(draw_weights)
    yield {"startup_s": time.perf_counter() - start, "vllm": vllm.__version__}
    prompts = [{"prompt_token_ids": ids} for ids in workload.prompts]
    for _ in range(num_rounds):
        if workload.shared_prefix:
            llm.reset_prefix_cache()
        params = [
            vllm.SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True, detokenize=False)
            for n in workload.output_lens
        ]
        start = time.perf_counter()
        results = llm.generate(prompts, params, use_tqdm=False)
        yield time.perf_counter() - start, sum(len(result.outputs[0].token_ids) for result in results)


def run_continuous(workload: Workload, num_rounds: int, options: dict[str, Any]) -> Iterator[Round | dict]:
    """transformers' continuous batching, with flash-attn when it is installed."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    from parquetry.workers.packed.attention.flash import has_package

    start = time.perf_counter()
    model = make_model(workload.model, "flash_attention_2" if has_package() else "sdpa")
    generation = GenerationConfig(
        max_new_tokens=workload.max_new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    manager = model.init_continuous_batching(
        generation_config=generation, continuous_batching_config=ContinuousBatchingConfig(**options)
    )
    manager.warmup()
    manager.start()
    yield {"startup_s": time.perf_counter() - start}
    for number in range(num_rounds):
        start = time.perf_counter()
        for index, (ids, length) in enumerate(zip(workload.prompts, workload.output_lens, strict=True)):
            manager.add_request(ids, request_id=f"{number}-{index}", max_new_tokens=length)
        done = num_tokens = 0
        while done < len(workload.prompts):
            result = manager.get_result(timeout=30)
            if result is None:
                raise RuntimeError("continuous batching returned nothing for 30 s")
            if result.is_finished():
                done, num_tokens = done + 1, num_tokens + len(result.generated_tokens)
        yield time.perf_counter() - start, num_tokens
    manager.stop(block=True, timeout=5)


def run_padded(workload: Workload, num_rounds: int, options: dict[str, Any]) -> Iterator[Round | dict]:
    """`generate` on left-padded batches in input order; `batches` limits how many, since it takes minutes."""
    start = time.perf_counter()
    model = make_model(workload.model, "sdpa")
    batch_size, batches = options.get("batch_size", 64), options.get("batches", 1)
    yield {"startup_s": time.perf_counter() - start, "batches": batches, "batch_size": batch_size}
    start = time.perf_counter()
    num_tokens = 0
    for first in range(0, min(len(workload.prompts), batch_size * batches), batch_size):
        lens = workload.output_lens[first : first + batch_size]
        ids, mask = left_pad(workload.prompts[first : first + batch_size])
        limits = {"max_new_tokens": max(lens), "min_new_tokens": max(lens)}
        with torch.inference_mode():
            model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), do_sample=False,
                eos_token_id=None, pad_token_id=0, **limits,
            )  # fmt: skip
        num_tokens += sum(lens)
    yield time.perf_counter() - start, num_tokens


def left_pad(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, (batch, longest)."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


SIDES: dict[str, Callable[..., Iterator[Round | dict]]] = {
    "packed": run_packed,
    "vllm": run_vllm,
    "continuous": run_continuous,
    "padded": run_padded,
}


def peak_memory_gib() -> float:
    """Memory in use on the card, by whoever holds it."""
    if not torch.cuda.is_available():
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**30


def main() -> None:
    """argv: side, workload, rounds, options as JSON, rows (0: all)."""
    side, name, num_rounds, options, num_rows = sys.argv[1:6]
    workload = WORKLOADS[name](int(num_rows)) if int(num_rows) else WORKLOADS[name]()
    if not torch.cuda.is_available():
        has_experts = Experts.of(make_config(workload.model)).num_layers > 0
        workload = Workload(**{**vars(workload), "model": "tiny-moe" if has_experts else "tiny"})
    report: dict[str, Any] = {"side": side, "workload": name, "rounds": []}
    for item in SIDES[side](workload, int(num_rounds), json.loads(options)):
        if isinstance(item, dict):
            report.update(item)
            continue
        seconds, num_tokens = item
        report["rounds"].append({"seconds": seconds, "output_tokens": num_tokens})
        print(f"{side} {name}: {seconds:.2f} s, {num_tokens / seconds:.0f} output tok/s", file=sys.stderr, flush=True)
    report["peak_memory_gib"] = peak_memory_gib()
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
