"""docs/notebooks.md: its snippets, one after the other in one process, do what the page says of them."""

from __future__ import annotations

import re

import pytest

import parquetry
from parquetry.schemas.settings import settings
from tests.acceptance.commands import ROOT


@pytest.fixture
def names(tmp_path, monkeypatch, encoder):
    """What the snippets leave behind, run in a folder that has the models they name."""
    from tests.models import write_classifier

    (tmp_path / "models").mkdir()
    (tmp_path / "models/embedder").symlink_to(encoder)
    write_classifier(tmp_path / "models/classifier")
    monkeypatch.setenv("PARQUETRY_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("PARQUETRY_BROKER_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    settings.cache_clear()
    found = {}
    page = (ROOT / "docs/notebooks.md").read_text()
    try:
        for snippet in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
            exec(snippet, found)
    finally:
        parquetry.close()
        settings.cache_clear()
    return found


def test_the_snippets(names, tmp_path):
    moods = names["moods"]
    assert list(moods.index) == ["a", "b", "c"] and list(moods.columns) == ["review", "label", "score", "error"]
    assert moods["error"].fillna("").tolist() == ["", "", "text is null"]
    assert list(names["both"].columns) == [*moods.columns, "vector_embedding", "vector_error"]
    assert names["again"].equals(moods) and len(list((tmp_path / "kept").iterdir())) == 1
    assert set(names["vectors"]) == {0, 1, 2} and names["vectors"][2] is None
    assert (tmp_path / "vectors/_SUCCESS").exists()
