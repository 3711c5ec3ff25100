"""The packages a back end needs, checked before a worker is started."""

from __future__ import annotations

from importlib.util import find_spec

from parquetry.schemas.errors import MissingPackageError
from parquetry.workers.engine_needs import BACKENDS


def require_engine(backend: str) -> None:
    """Raise MissingPackageError before a worker is started that would fail every shard."""
    needed, extra = BACKENDS.get(backend, BACKENDS["auto"])
    for package in needed:
        if find_spec(package) is None:
            feature = f"model.backend {backend} on this machine"
            raise MissingPackageError(feature=feature, package=package, install=f"parquetry[{extra}]")
