"""What a KV cache in float8 costs in quality: perplexity and the likeliest tokens of a text, read in chunks.

    python benchmarks/kv_quality.py data/models/SmolLM2-135M-Instruct      # a checkpoint's folder, after `make demo`
    python benchmarks/kv_quality.py --layers 32                            # a random model of so many layers

Every chunk reads what came before it from the cache, as decodes do. The reference keeps what the model computes with.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from quantization_quality import TEXT, perplexity

from parquetry.workers.checks.comparison import Span
from parquetry.workers.packed.checks.paged_check import check_batch, check_sequences
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine

CHUNK = 32


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--layers", type=int, default=32, help="of the random model, without a folder")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--tokens", type=int, default=1024)
    return parser.parse_args()


def load(args: argparse.Namespace) -> tuple[PreTrainedModel, np.ndarray]:
    """The model and the ids of the text, or random ids."""
    dtype, device = getattr(torch, args.dtype), "cuda" if torch.cuda.is_available() else "cpu"
    if args.folder is not None:
        from tokenizers import Tokenizer

        ids = Tokenizer.from_file(str(args.folder / "tokenizer.json")).encode(TEXT.read_text(encoding="utf-8")).ids
        model = AutoModelForCausalLM.from_pretrained(args.folder, dtype=dtype)
        return model.to(device).eval(), np.asarray(ids[: args.tokens], dtype=np.int32)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=512, intermediate_size=1024, num_hidden_layers=args.layers,
        num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=4096,
    )  # fmt: skip
    ids = np.random.default_rng(0).integers(0, 4096, args.tokens).astype(np.int32)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).to(device).eval(), ids


@torch.inference_mode()
def logits_of(model: PreTrainedModel, ids: np.ndarray, kv_dtype: str) -> Tensor:
    """Logits (num_tokens, vocab) of the text, chunk after chunk."""
    options = PackedOptions(kv_dtype=kv_dtype, num_blocks=256, max_num_seqs=1, graphs=False)
    engine = PackedEngine(model, None, (), options)
    forward, builder = engine.runner.forward, engine.runner.builder
    sequences, logits = check_sequences([ids], forward.device_lanes.block_size, 0), []
    for start in range(0, len(ids), CHUNK):
        spans = [Span(0, start, min(start + CHUNK, len(ids)))]
        step = builder.build(check_batch(sequences, spans, forward.device_lanes.block_size, is_first=start == 0))
        step.sample_rows = 0
        logits.append(forward.logits(step).float().cpu())
    engine.close()
    return torch.cat(logits)


def main() -> None:
    args = parse_args()
    model, ids = load(args)
    wide = logits_of(model, ids, "auto")
    targets = torch.from_numpy(ids.astype(np.int64))
    print("| cache | tokens | perplexity | the same likeliest token | relative error of the logits |")
    print("|---|---|---|---|---|")
    for name in ("auto", "fp8"):
        logits = wide if name == "auto" else logits_of(model, ids, name)
        same = float((logits.argmax(-1) == wide.argmax(-1)).float().mean())
        error = float((logits - wide).norm() / wide.norm())
        print(f"| {name} | {len(ids)} | {perplexity(targets, logits):.3f} | {same:.4f} | {error:.4f} |")


if __name__ == "__main__":
    main()
