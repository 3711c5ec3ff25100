from __future__ import annotations

from collections.abc import Iterator

import pytest

from parquetry.schemas.settings import settings


@pytest.fixture
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No broker, and settings that are read anew."""
    monkeypatch.delenv("PARQUETRY_BROKER_URL", raising=False)
    settings.cache_clear()
    yield
    settings.cache_clear()
