"""Which devices hold the weights, decided from the sizes of the files before any is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from parquetry.schemas.errors import InvalidValueError, ModelTooLargeError, UnsupportedQuantizationError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.card import Card
from parquetry.workers.loading.devices.byte_size import format_bytes, parse_bytes

Device = int | str
#: share of a device that weights may take when the job sets no limit; the rest is for activations and the KV cache
WEIGHT_SHARE = 0.9


@dataclass(frozen=True)
class Placement:
    """`device_map` and `max_memory` as transformers takes them; one device unless `is_spread`.

    With several `shares` every device of as many ranks holds one, and `device_map` names this rank's.
    """

    device_map: str | dict[str, str]
    max_memory: dict[Device, int] | None = None
    shares: int = 1

    @property
    def is_spread(self) -> bool:
        return isinstance(self.device_map, str)


def device_key(device: str) -> Device:
    """accelerate's name of `cpu` or `cuda:0`."""
    return device if device == "cpu" else int(device.partition(":")[2] or 0)


def parse_limits(model: ModelSpec) -> dict[Device, int] | None:
    """`max_memory` in bytes by device: card numbers and `cpu`. Raises InvalidValueError."""
    if model.max_memory is None:
        return None
    limits: dict[Device, int] = {}
    for name, amount in model.max_memory.items():
        if name != "cpu" and not name.isdecimal():
            reason = "a device is a card number such as '0', or 'cpu'"
            raise InvalidValueError(key="model.max_memory", value=repr(name), reason=reason)
        limits[name if name == "cpu" else int(name)] = parse_bytes(amount, key=f"model.max_memory.{name}")
    return limits


def choose_placement(model: ModelSpec, needed: int, cards: Mapping[Device, Card], *, device: str = "cpu") -> Placement:
    """Where `needed` bytes of weights go, the first device of `device`'s kind alone where they fit.

    Raises ModelTooLargeError, naming what is missing, when the devices that the job allows cannot hold them.
    """
    limits = parse_limits(model)
    allowed = _allowed(limits, cards)
    first = device_key(device)
    if needed <= allowed.get(first, 0):
        return Placement({"": device})
    if device == "cpu" or model.device_map is None:
        raise _too_large(model, needed, {first: allowed.get(first, 0)})
    if needed > sum(allowed.values()):
        raise _too_large(model, needed, allowed)
    _refuse_quantized_offload(model, needed, allowed)
    return Placement("auto", max_memory=allowed)


def choose_share(model: ModelSpec, needed: int, cards: Mapping[Device, Card], *, device: str, shares: int) -> Placement:
    """The share of `needed` bytes that one of `shares` ranks holds on `device`. Raises ModelTooLargeError."""
    first = device_key(device)
    allowed = _allowed(parse_limits(model), cards).get(first, 0)
    if needed > shares * allowed:
        raise _too_large(model, needed // shares, {first: allowed})
    return Placement({"": device}, shares=shares)


def require_room(model: ModelSpec, needed: int, limits: Mapping[Device, int] | None) -> None:
    """Raise ModelTooLargeError when the job's own limits, on whatever cards, cannot hold `needed` bytes."""
    if limits is not None and needed > sum(limits.values()):
        raise _too_large(model, needed, limits)


def memory_limit(model: ModelSpec, device: str) -> int | None:
    """Bytes of the card that the job may take, weights, cache and activations together; None without a limit."""
    limits = parse_limits(model)
    if limits is None or device == "cpu":
        return None
    return limits.get(device_key(device), 0)


def _allowed(limits: Mapping[Device, int] | None, cards: Mapping[Device, Card]) -> dict[Device, int]:
    """Bytes of weights each device may hold; a device the job does not list holds none once it lists any."""
    if limits is None:
        return {device: int(card.total_bytes * WEIGHT_SHARE) for device, card in cards.items()}
    return {device: min(limits.get(device, 0), card.total_bytes) for device, card in cards.items()}


def _refuse_quantized_offload(model: ModelSpec, needed: int, allowed: Mapping[Device, int]) -> None:
    on_cards = sum(count for device, count in allowed.items() if device != "cpu")
    if model.quantization != "none" and needed > on_cards:
        missing = format_bytes(needed - on_cards)
        reason = f"its kernels cannot use weights that are offloaded to the CPU, and the cards lack {missing} of memory"
        raise UnsupportedQuantizationError(quantization=model.quantization, reason=reason)


def _too_large(model: ModelSpec, needed: int, allowed: Mapping[Device, int]) -> ModelTooLargeError:
    names = [str(device) if device == "cpu" else f"cuda:{device}" for device, count in allowed.items() if count]
    total = sum(allowed.values())
    return ModelTooLargeError(
        model=model.id,
        needed=format_bytes(needed),
        kind="weights of its dtype" if model.quantization == "none" else model.quantization,
        where=" and ".join(names) or "the devices of model.max_memory",
        allowed=format_bytes(total),
        missing=format_bytes(needed - total),
        remedy=_remedy(model),
    )


def _remedy(model: ModelSpec) -> str:
    raised = "raise model.max_memory" if model.max_memory else "use a device with more memory"
    return raised if model.quantization in ("nf4", "fp4") else f"{raised} or set model.quantization to nf4"
