"""What a quantization costs in quality: perplexity and greedy agreement on a fixed text, through the loader of jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from quantization_side import load
from tokenizers import Tokenizer

TEXT = Path(__file__).resolve().parent / "quality_text.txt"


@torch.inference_mode()
def logits_of(folder: Path, quantization: str, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (num_tokens,) of the text, and logits (num_tokens, vocab) of the model over them."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = torch.tensor(tokenizer.encode(TEXT.read_text(encoding="utf-8")).ids)
    model = load(folder, quantization, device)
    return ids, model(input_ids=ids[None].to(device), use_cache=False).logits[0].float().cpu()


def perplexity(ids: torch.Tensor, logits: torch.Tensor) -> float:
    """exp of the mean loss of every token but the first."""
    return float(torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).exp())


def quality(folder: Path, quantizations: list[str], device: str) -> list[dict[str, Any]]:
    """One report a quantization; agreement is the share of positions whose likeliest token is bfloat16's."""
    ids, reference = logits_of(folder, "none", device)
    best = reference.argmax(-1)
    reports = []
    for name in quantizations:
        logits = reference if name == "none" else logits_of(folder, name, device)[1]
        agreement = float((logits.argmax(-1) == best).float().mean())
        reports.append(
            {"quantization": name, "tokens": len(ids), "perplexity": perplexity(ids, logits), "agreement": agreement}
        )
    return reports
