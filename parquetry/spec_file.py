"""Reads a job spec from a YAML or JSON file and applies `--set a.b=c`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from parquetry.schemas.bounded_json import parse_json
from parquetry.schemas.errors import BadInputError, SpecNotFoundError, SpecSyntaxError
from parquetry.schemas.spec.job import JobSpec

#: a template of the longest that is taken, and tools beside it
MAX_SPEC_BYTES = 8 << 20
#: values of a YAML file, which take a while to read one by one, and how deep they may lie
_MAX_VALUES = 20_000
_MAX_DEPTH = 64


class OverrideError(BadInputError):
    """The override --set {text} is not usable: {reason}."""


def load_spec(path: Path, overrides: Iterable[str] = ()) -> JobSpec:
    """The validated spec of `path`, each override applied in turn. Raises a BadInputError naming what is off."""
    data = read_mapping(path)
    for text in overrides:
        apply_override(data, text)
    return JobSpec.parse(data)


def read_mapping(path: Path) -> dict[str, Any]:
    """The file's top-level mapping: JSON when it is called .json, YAML otherwise."""
    text = _read_text(path)
    data = _parse_json(path, text) if path.suffix.lower() == ".json" else _parse_yaml(path, text)
    if not isinstance(data, dict):
        kind = "nothing" if data is None else f"a {type(data).__name__}"
        raise SpecSyntaxError(path=path, reason=f"it holds {kind}, not keys and values such as `task: generate`")
    return data


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_SPEC_BYTES:
            raise SpecSyntaxError(path=path, reason=f"it is larger than {MAX_SPEC_BYTES >> 20} MiB")
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise SpecNotFoundError(path=path) from None
    except UnicodeDecodeError as error:
        raise SpecSyntaxError(path=path, reason=f"byte {error.start} is not UTF-8") from None
    except OSError as error:
        raise SpecSyntaxError(path=path, reason=f"it cannot be read ({error.strerror})") from None


def _parse_json(path: Path, text: str) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise SpecSyntaxError(path=path, reason=f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValueError as error:
        raise SpecSyntaxError(path=path, reason=str(error)) from None


def _parse_yaml(path: Path, text: str) -> Any:
    try:
        # _UniqueKeys is a SafeLoader: it builds plain data only
        return yaml.load(text, Loader=_UniqueKeys)  # noqa: S506
    except yaml.YAMLError as error:
        raise SpecSyntaxError(path=path, reason=_describe(error)) from None


def _describe(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key given twice, which plain YAML loading would settle silently in favour of the last.

    Bounded in what it reads; an alias counts for all that it stands for, which may be far more than is written.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._count = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event, before = self.peek_event(), self._count
        self._depth += 1
        self._count += 1
        self._require(self._depth <= _MAX_DEPTH, f"it is nested more than {_MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent) and node is not None:
            self._require(node in self._sizes, f"the alias {event.anchor} stands within what it stands for")
            self._count += self._sizes[node]
        elif node is not None:
            self._sizes[node] = self._count - before
        self._require(self._count <= _MAX_VALUES, f"it holds more than {_MAX_VALUES} values")
        self._depth -= 1
        return node

    def _require(self, holds: bool, problem: str) -> None:
        if not holds:
            raise yaml.composer.ComposerError(None, None, problem, self.peek_event().start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value if isinstance(key.value, str) else repr(key.value))
        return super().construct_mapping(node, deep)


def apply_override(data: dict[str, Any], text: str) -> None:
    """Put `a.b=c` into `data`, where c is read as YAML, else taken as text. Missing and empty sections are made."""
    name, value = parse_override(text)
    set_key(data, name, value, said=text)


def parse_override(text: str) -> tuple[str, Any]:
    """Key and value of `a.b=c`. Raises OverrideError."""
    name, separator, value = text.partition("=")
    if not separator or not all(name.strip().split(".")):
        raise OverrideError(text=repr(text), reason="write it as key=value, for example model.quantization=nf4")
    return name.strip(), _value(value)


def set_key(data: dict[str, Any], name: str, value: Any, *, said: str = "") -> None:
    """Put a value under a dotted key; missing and empty sections are made.

    Raises OverrideError, which names what the user has `said`.
    """
    *sections, key = name.split(".")
    if sections and (kind := JobSpec.section(sections[0])) is not None:
        data[sections[0]] = kind.spelled_out(data.get(sections[0]))
    for section in sections:
        data = _section(data, section, said or name)
    data[key] = value


def _section(data: dict[str, Any], name: str, text: str) -> dict[str, Any]:
    if data.get(name) is None:
        data[name] = {}
    if not isinstance(data[name], dict):
        raise OverrideError(text=repr(text), reason=f"{name} is {data[name]!r} in the spec, not a section")
    return data[name]


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        # a template such as {{ text }} is no YAML; where text does not belong, the spec's validation says so
        return text
