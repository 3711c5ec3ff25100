"""Where weights of 4 bits that our own layers read cannot be used, told before any is read."""

from __future__ import annotations

from parquetry.schemas.errors import UnsupportedQuantizationError
from parquetry.workers.engine_spec import OTHER_RUNTIMES
from parquetry.workers.loading.quantization.four_bit_scheme import FourBitScheme


def check_runtime(scheme: FourBitScheme, backend: str, *, has_own_graph: bool) -> None:
    """Raise UnsupportedQuantizationError where another runtime would have to make a graph of the weights."""
    if backend in OTHER_RUNTIMES and not has_own_graph:
        reason = f"model.backend {backend} makes no graph of its weights of 4 bits; set that to auto"
        raise UnsupportedQuantizationError(quantization=scheme.method, reason=reason)


def check_placement(scheme: FourBitScheme, *, is_spread: bool) -> None:
    """Raise UnsupportedQuantizationError where the weights would be spread over several devices."""
    if is_spread:
        reason = "its weights of 4 bits must lie on one device; use one with more memory, or raise model.max_memory"
        raise UnsupportedQuantizationError(quantization=scheme.method, reason=reason)
