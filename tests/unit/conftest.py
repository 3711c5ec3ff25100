"""Tiny models, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    pytest.importorskip("transformers", reason="the torch extra is not installed")
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def causal_lm(models_folder: Path) -> Path:
    """A chat model of 256 positions."""
    from tests.models import write_causal_lm

    return write_causal_lm(models_folder / "causal-lm")


@pytest.fixture(scope="session")
def classifier(models_folder: Path) -> Path:
    """Three labels."""
    from tests.models import write_classifier

    return write_classifier(models_folder / "classifier")


@pytest.fixture(scope="session")
def scorer(models_folder: Path) -> Path:
    """One output for a pair of texts."""
    from tests.models import write_classifier

    return write_classifier(models_folder / "scorer", labels=["score"])


@pytest.fixture(scope="session")
def embedder(models_folder: Path) -> Path:
    """Mean pooling, 32 numbers of length one, 32 tokens at most."""
    from tests.models import write_embedder

    return write_embedder(models_folder / "embedder")


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH, for a fake nvidia-smi; without one there is no driver."""
    folder = tmp_path / "driver"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return folder
