"""Tiny vision-language models, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def vision_lm(models_folder: Path) -> Callable[..., Path]:
    """Makes the folder of a family, with a chat template or without."""

    def make(family: str = "llava", *, chat: bool = True) -> Path:
        from tests.vision_models import write_vision_lm

        folder = models_folder / f"{family}-{'chat' if chat else 'plain'}"
        return folder if folder.exists() else write_vision_lm(folder, family, chat=chat)

    return make
