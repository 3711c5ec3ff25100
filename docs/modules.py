"""Prints docs/modules.md: every module of every room with the first line of its docstring.

python docs/modules.py > docs/modules.md
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("schemas", "producers", "tasks", "workers", "monitor", "parquetry")


def first_line(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def page() -> str:
    """The whole page."""
    lines = ["# Modules", "", "One sentence a module, from its own docstring."]
    for room in ROOMS:
        lines += ["", f"## {room}", "", "| module | |", "|---|---|"]
        modules = [path for path in sorted((ROOT / room).rglob("*.py")) if path.name != "__init__.py"]
        lines += [f"| `{path.relative_to(ROOT / room)}` | {first_line(path)} |" for path in modules]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
