"""The GPUs of this machine, and what engines can do on them: quantizations and attention, what is missing or slow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from parquetry.schemas.finding import Finding, Level
from parquetry.workers.card import Card, cpu_card
from parquetry.workers.gpus import Gpu, GpuQueryError, visible_gpus
from parquetry.workers.loading.abilities import Ability, attentions, quantizations
from parquetry.workers.loading.quantization.figures import speed_warning


def gpu_findings() -> Iterator[Finding]:
    """Which GPUs there are; then, where torch is, what every kind of card can do, or the CPU where there is none."""
    try:
        gpus = visible_gpus()
    except GpuQueryError as error:
        fix = "reinstall the NVIDIA driver, or restart the machine"
        yield Finding("gpu", Level.UNUSABLE, f"the driver does not answer: {error.reason}", fix)
        return
    yield Finding("gpu", Level.OK, ", ".join(map(_named, gpus)) or "none visible; workers use the CPU")
    if find_spec("torch"):
        for card in dict.fromkeys(gpu.card for gpu in gpus) or [cpu_card()]:
            yield from findings_of(card)


def _named(gpu: Gpu) -> str:
    return f"{gpu.name} ({gpu.total_bytes / 2**30:.0f} GiB, driver {gpu.driver})"


def findings_of(card: Card) -> Iterator[Finding]:
    """What one kind of card can do."""
    found = quantizations(card)
    yield _finding("quantization", card, found)
    yield _finding("attention", card, attentions(card))
    if card.kind != "cpu":
        able = [ability.name for ability in found if ability.obstacle is None]
        yield from _slow(card, able)


def _finding(name: str, card: Card, abilities: Sequence[Ability]) -> Finding:
    able = ", ".join(ability.name for ability in abilities if ability.obstacle is None) or "none"
    text = "; ".join([f"{card.name}: {able}", *(f"not {names}: {why}" for why, names in _obstacles(abilities).items())])
    installs = dict.fromkeys(ability.install for ability in abilities if ability.install)
    fix = " and ".join(f"pip install '{install}'" for install in installs)
    return Finding(name, Level.OK, text, f"for the rest: {fix}" if fix else "")


def _obstacles(abilities: Sequence[Ability]) -> dict[str, str]:
    """Obstacle -> the names it stops, so that each is said once."""
    found: dict[str, list[str]] = {}
    for ability in abilities:
        if ability.obstacle is not None:
            found.setdefault(ability.obstacle, []).append(ability.name)
    return {why: ", ".join(names) for why, names in found.items()}


def _slow(card: Card, able: Sequence[str]) -> Iterator[Finding]:
    for name in able:
        warning = speed_warning(name, card.name)
        if warning is not None:
            yield Finding("speed", Level.WARNING, f"{card.name}: {warning}")
