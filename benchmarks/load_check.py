"""Which planted faults the load check finds, beside one limit for the logits of the whole model.

    python benchmarks/load_check.py [--model FOLDER] [--layers 2 32 80] [--formats bfloat16 float16 fp8 int8 nf4]

A row is a model; a cell says how many of the ten faults of tests/unit/workers/checks/planted_faults.py were found, and
whether the right model passed. `whole` is one fixed limit on the logits of a short prompt of random ids, which is what
the check was before: relative error 0.08 in bfloat16, 0.03 in float16, 0.35 where weights are quantized.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from parquetry.workers.checks.comparison import centred
from parquetry.workers.engine import UnsupportedModel
from parquetry.workers.packed.attention.kv_cache import attach_caches
from parquetry.workers.packed.checks.paged_check import PagedCheck
from parquetry.workers.packed.forward import Forward
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from tests.unit.workers.checks.planted_faults import FAULTS, planted

WHOLE_LIMITS = {"bfloat16": 0.08, "float16": 0.03, "float32": 2e-3}
QUANTIZED_LIMIT = 0.35


def random_model(layers: int, dtype: torch.dtype, device: str) -> nn.Module:
    """A Llama of random weights, 512 numbers a token."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512, intermediate_size=1024, num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=4,
        vocab_size=2048, max_position_embeddings=1024,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(device, dtype).eval().requires_grad_(False)


def quantized(model: nn.Module, name: str, folder: Path | None) -> nn.Module:
    """The same in a format of fewer bits."""
    from parquetry.workers.loading.model import quantize_late
    from parquetry.workers.loading.quantization.quantization import RECIPES

    config = RECIPES[name].build("bfloat16", 0.0)
    if RECIPES[name].package == "torchao":
        quantize_late(model, config)
        return model
    source = folder or Path("/tmp/load-check-model")
    if folder is None:
        model.save_pretrained(source)
    return AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, quantization_config=config).eval()


def make(layers: int | None, folder: Path | None, format: str, device: str) -> nn.Module:
    dtype = getattr(torch, format, torch.bfloat16)
    if folder is not None:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval().requires_grad_(False)
    else:
        model = random_model(layers or 2, dtype, device)
    return model if hasattr(torch, format) and format in WHOLE_LIMITS else quantized(model, format, folder)


def finds(check: PagedCheck, forward: Forward, fault: str | None) -> bool:
    with planted(fault or "", forward, check.layers):
        try:
            check.require(forward, "differs")
        except UnsupportedModel:
            return True
    return False


def whole_error(check: PagedCheck, forward: Forward, fault: str | None) -> float:
    """Largest relative error of the centred logits of a step, computed packed from beginning to end."""
    errors = []
    with planted(fault or "", forward, check.layers):
        for spans, step in check.steps(forward):
            with torch.inference_mode():
                got = centred(forward.logits(step))
            want = centred(torch.cat([check.runs[span.prompt].end[span.start : span.stop] for span in spans]))
            errors.append(float((got - want).norm() / want.norm()))
    return max(errors)


def row(name: str, model: nn.Module, format: str, tokenizer: object) -> str:
    engine = PackedEngine(model, tokenizer, (), PackedOptions(num_blocks=64, graphs=False, compile=False))
    forward, checks = engine.runner.forward, engine.components.checks
    size = forward.device_lanes.block_size

    def clear() -> None:
        # a key that is not written may not be found where an earlier run has left it
        attach_caches(engine.components.layers, checks[0].num_blocks(size), size, model.device)

    limit = WHOLE_LIMITS.get(format, QUANTIZED_LIMIT)
    found, errors = [], []
    for fault in (*FAULTS, None):
        clear()
        found.append(finds(checks[0], forward, fault))
        clear()
        errors.append(whole_error(checks[0], forward, fault))
    right, right_whole = found.pop(), errors.pop()
    whole = [not error <= limit for error in errors]
    engine.close()
    cells = (
        f"{sum(found)}/10, right one {'refused' if right else 'passes'}",
        f"{sum(whole)}/10, right one {'refused' if right_whole > limit else 'passes'} ({right_whole:.3g})",
        ", ".join(missed(found)) or "-",
        ", ".join(missed(whole)) or "-",
    )
    return f"| {name} | {' | '.join(cells)} |"


def missed(found: list[bool]) -> list[str]:
    """The faults that were not found."""
    return [fault for fault, is_found in zip(FAULTS, found, strict=True) if not is_found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--layers", type=int, nargs="*", default=[2, 32, 80])
    parser.add_argument("--formats", nargs="*", default=["bfloat16", "float16", "fp8", "int8", "nf4"])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print("| model | by layer | whole | missed by layer | missed whole |\n|---|---|---|---|---|", flush=True)
    for format in options.formats:
        for layers in options.layers:
            print(
                row(f"random, {layers} layers, {format}", make(layers, None, format, device), format, None), flush=True
            )
        if options.model is not None:
            import tokenizers

            tokenizer = tokenizers.Tokenizer.from_file(str(options.model / "tokenizer.json"))
            print(
                row(f"{options.model.name}, {format}", make(None, options.model, format, device), format, tokenizer),
                flush=True,
            )


if __name__ == "__main__":
    main()
