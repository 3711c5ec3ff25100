"""What a card can load and compute with: every quantization and attention a job may name, and what is in its way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import get_args

from parquetry.schemas.errors import MissingPackageError, ParquetryError
from parquetry.schemas.spec.job import Attention, ModelSpec, Quantization
from parquetry.workers.card import Card
from parquetry.workers.loading.attention_choice import AttentionLimits, check_attention
from parquetry.workers.loading.quantization.quantization import check_quantization


@dataclass(frozen=True)
class Ability:
    """One choice: it can be used when `obstacle` is None; `install` is what removes the obstacle, where that helps."""

    name: str
    obstacle: str | None = None
    install: str | None = None


def quantizations(card: Card) -> list[Ability]:
    """Every `model.quantization` on a card."""
    names: list[Quantization] = [name for name in get_args(Quantization) if name != "none"]
    return [_ability(name, partial(check_quantization, _loaded_as(name), card)) for name in names]


def attentions(card: Card) -> list[Ability]:
    """Every `model.attention` on a card, for weights in half precision and a model that leaves the choice open."""
    limits = AttentionLimits(card, "bfloat16")
    names: tuple[Attention, ...] = get_args(Attention)
    return [_ability(name, partial(check_attention, name, limits)) for name in names]


def _loaded_as(quantization: Quantization) -> ModelSpec:
    return ModelSpec.model_validate({"id": "any", "quantization": quantization})


def _ability(name: str, check: Callable[[], None]) -> Ability:
    try:
        check()
    except MissingPackageError as error:
        return Ability(name, f"it needs {error.fields['package']}", str(error.fields["install"]))
    except ParquetryError as error:
        return Ability(name, str(error.fields["reason"]))
    return Ability(name)
