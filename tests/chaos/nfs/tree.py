"""Which file the kernel means by a node, in an export that other mounts change at the same time."""

from __future__ import annotations

import os
from errno import ESTALE
from pathlib import Path

ROOT = 1


class Tree:
    """Nodes are handles of files, not of names: one whose file is gone is stale, though another has its name now."""

    def __init__(self, export: Path) -> None:
        self.export = export
        self._paths: dict[int, str] = {ROOT: ""}
        self._inodes: dict[int, int] = {ROOT: os.stat(export).st_ino}
        self._nodes: dict[str, int] = {"": ROOT}

    def real(self, path: str) -> str:
        return f"{self.export}/{path}"

    def path(self, node: int) -> str:
        """Its name now, from the export on. Raises OSError(ESTALE)."""
        path = self._paths.get(node)
        try:
            if path is not None and os.lstat(self.real(path)).st_ino == self._inodes[node]:
                return path
        except FileNotFoundError:
            pass
        raise OSError(ESTALE, "stale")

    def child(self, node: int, name: str) -> str:
        folder = self.path(node)
        return f"{folder}/{name}" if folder else name

    def node(self, path: str, status: os.stat_result) -> int:
        """The node of what has this name now."""
        node = self._nodes.get(path)
        if node is None or self._inodes[node] != status.st_ino:
            node = self._nodes[path] = len(self._inodes) + 1
            self._paths[node], self._inodes[node] = path, status.st_ino
        return node

    def moved(self, old: str, new: str) -> None:
        """A file, or a folder with what is in it, has another name."""
        self.gone(new)
        for path in [path for path in self._nodes if path == old or path.startswith(f"{old}/")]:
            node = self._nodes.pop(path)
            name = new + path[len(old) :]
            self._paths[node], self._nodes[name] = name, node

    def gone(self, path: str) -> None:
        node = self._nodes.pop(path, None)
        if node is not None:
            self._paths.pop(node)
