"""Imports point one way: rooms stand on those below them, and no files import each other in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: room -> what it may import besides itself
BELOW = {
    "schemas": set(),
    "workers": {"schemas"},
    "tasks": {"schemas", "workers"},
    "producers": {"schemas", "workers", "tasks"},
    "monitor": {"schemas", "tasks"},
    "parquetry": {"schemas", "workers", "tasks", "producers", "monitor"},
}
#: beside the rooms of the workers: what all of them may import, and what imports none of them
GROUND = {
    "card",
    "engine",
    "engine_needs",
    "engine_spec",
    "gpu_meter",
    "gpus",
    "noise",
    "packages",
    "cpu",
    "request",
    "stops",
    "vocabulary_check",
}


def modules() -> dict[str, Path]:
    """Installed name -> file, of every module."""
    found = {}
    for room in BELOW:
        for file in (ROOT / room).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            names = parts if room == "parquetry" else ("parquetry", *parts)
            found[".".join(names).removesuffix(".__init__")] = file
    return found


MODULES = modules()


def imported(name: str) -> Iterator[str]:
    """The modules of ours that a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in whole if node.module in MODULES)


@cache
def imports() -> dict[str, set[str]]:
    """Module -> the others that it imports. Read by whoever runs these tests, not by all who only collect them."""
    return {name: set(imported(name)) - {name, "parquetry"} for name in MODULES}


def room_of(name: str) -> str:
    second = name.split(".")[1] if "." in name else ""
    return second if second in BELOW else "parquetry"


def circles() -> list[list[str]]:
    """Groups of modules that import each other, found by taking away whatever imports nothing that is left."""
    left = {name: set(of) for name, of in imports().items() if not name.startswith("parquetry.commands.__init__")}
    while True:
        loose = {name for name, of in left.items() if not of & left.keys()}
        loose |= {name for name in left if not any(name in of for of in left.values())}
        if not loose:
            return [sorted(left)] if left else []
        left = {name: of for name, of in left.items() if name not in loose}


@pytest.mark.parametrize("room", BELOW)
def test_rooms_import_only_what_stands_below_them(room: str) -> None:
    names = [name for name in MODULES if room_of(name) == room]
    above = {(name, other) for name in names for other in imports()[name] if room_of(other) not in BELOW[room] | {room}}
    assert above == set()


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles() == []


def test_what_all_rooms_of_the_workers_use_imports_none_of_them() -> None:
    names = {f"parquetry.workers.{name}" for name in GROUND}
    assert {(name, other) for name in names for other in imports()[name] if room_of(other) == "workers"} <= {
        (name, other) for name in names for other in names
    }


def folder_of(name: str) -> str:
    """The folder that a module lies in."""
    return name.rsplit(".", 1)[0]


def test_folders_of_the_workers_import_each_other_in_no_circle() -> None:
    """A folder inside another may use what lies beside it, and be used from there."""
    pairs = {(folder_of(name), folder_of(other)) for name in imports() for other in imports()[name]}
    pairs = {(a, b) for a, b in pairs if not f"{a}.".startswith(f"{b}.") and not f"{b}.".startswith(f"{a}.")}
    pairs = {pair for pair in pairs if all(folder.startswith("parquetry.workers.") for folder in pair)}
    assert {pair for pair in pairs if pair[::-1] in pairs and pair < pair[::-1]} == set()
