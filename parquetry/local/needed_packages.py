"""The packages an engine needs, checked before a worker is started."""

from __future__ import annotations

from importlib.util import find_spec

from parquetry.schemas.errors import MissingPackageError
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.engine_needs import ATTENTIONS, BACKENDS, OWN_QUEUES, QUANTIZATIONS


def require_engine(backend: str) -> None:
    """Raise MissingPackageError before a worker is started that would fail every shard."""
    needed, extra = BACKENDS.get(backend, BACKENDS["auto"])
    for package in needed:
        _require(package, f"model.backend {backend}", extra)


def require_model(model: ModelSpec) -> None:
    """The same for a model as it is to be loaded."""
    require_engine(model.backend)
    if settings().engine_factory is not None or model.backend in ("onnxruntime", *OWN_QUEUES):
        return
    if package := QUANTIZATIONS.get(model.quantization):
        _require(package, f"model.quantization {model.quantization}", "gpu")
    if package := ATTENTIONS.get(model.attention):
        _require(package, f"model.attention {model.attention}", "flash")


def _require(package: str, feature: str, extra: str) -> None:
    if find_spec(package) is None:
        install = f"parquetry[{extra}]"
        raise MissingPackageError(feature=f"{feature} on this machine", package=package, install=install)
