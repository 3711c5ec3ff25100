"""Measured speeds of quantizations, for the warnings of plan and load."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measurement: tokens per second as a share of those of half-precision weights."""

    quantizations: tuple[str, ...]
    #: part of the card's name; empty for every card
    card: str
    ratio: float
    #: model and batch it was taken with
    conditions: str
    source: str


#: of prompts and outputs together; with one row, int8-weight-only decodes at 1.54 times the rate
_H100 = ("8 layers of Llama 8B on an H100, 256 rows of 256 and 64 tokens", "benchmarks/quantization.py")
#: the first one that fits a card is the one that counts
FIGURES = (
    Figure(("int8",), "A100", 0.15, "LLaMA-7B, small batches", "bitsandbytes issue 181"),
    Figure(("int8",), "L4", 0.25, "one sequence at a time", "vLLM pull request 44684"),
    Figure(("nf4", "fp4"), "B200", 0.12, "a 30B mixture of experts, 8 sequences", "unsloth issue 5123"),
    Figure(("int8",), "", 0.60, *_H100),
    Figure(("nf4", "fp4"), "", 0.63, *_H100),
    Figure(("int8-weight-only",), "", 0.90, *_H100),
)


def speed_warning(quantization: str, card: str) -> str | None:
    """One sentence when `quantization` was measured slower than half precision on `card` (its full name), else None.

    Without a measurement on that card it quotes one from another card, and names that.
    """
    for figure in FIGURES:
        if quantization in figure.quantizations and figure.card in card and figure.ratio < 1:
            return (
                f"quantization {quantization} saves memory and costs time: {figure.ratio:.2f} times the tokens per "
                f"second of half precision were seen with {figure.conditions} ({figure.source}); "
                "leave model.quantization at none if the model fits"
            )
    return None
