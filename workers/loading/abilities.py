"""What a card can load and compute with: every quantization and attention a job may name, and what is in its way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import get_args

from parquetry.schemas.errors import MissingPackageError, ParquetryError
from parquetry.schemas.job import Attention, ModelSpec, Quantization
from parquetry.workers.loading.attention_choice import AttentionLimits, check_attention
from parquetry.workers.loading.card import Card
from parquetry.workers.loading.quantization import check_quantization


@dataclass(frozen=True)
class Ability:
    """One choice: it can be used when `obstacle` is None; `install` is what removes the obstacle, where that helps."""

    name: str
    obstacle: str | None = None
    install: str | None = None


def quantizations(card: Card) -> list[Ability]:
    """Every `model.quantization` on a card."""
    names = [name for name in get_args(Quantization) if name != "none"]
    return _tried(names, lambda name: check_quantization(ModelSpec(id="any", quantization=name), card))


def attentions(card: Card) -> list[Ability]:
    """Every `model.attention` on a card, for weights in half precision and a model that leaves the choice open."""
    limits = AttentionLimits(card, "bfloat16")
    return _tried(get_args(Attention), lambda name: check_attention(name, limits))


def _tried(names: Iterable[str], check: Callable[[str], None]) -> list[Ability]:
    return [_ability(name, check) for name in names]


def _ability(name: str, check: Callable[[str], None]) -> Ability:
    try:
        check(name)
    except MissingPackageError as error:
        return Ability(name, f"it needs {error.fields['package']}", str(error.fields["install"]))
    except ParquetryError as error:
        return Ability(name, str(error.fields["reason"]))
    return Ability(name)
