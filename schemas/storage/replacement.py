"""Replacing a file that is there by another in one step, by whoever has the right to it now and by nobody before."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path


class Replacement(ABC):
    """One try at replacing a file. Readers see the old file or the new one, never both and never none.

    Enter it, make sure that the right to replace is still yours, call `shut_others`, and only then read the file:
    whoever had the right before can then replace it no more, however late it wakes up. All raise StorageError.
    """

    @property
    @abstractmethod
    def path(self) -> Path:
        """A local path to write the new content to."""

    @abstractmethod
    def shut_others(self) -> None:
        """Take from everybody who has entered before the means to replace the file."""

    @abstractmethod
    def replace(self) -> bool:
        """Give the new content the file's name; False, and nothing changed, when somebody else has come. Durable."""
