"""The job file as JSON Schema, for editors: every key with what it is for, and the short ways to write a section."""

from __future__ import annotations

import inspect
import re
from typing import Any

from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.spec.section import Section

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_KINDS: dict[type, dict[str, Any]] = {str: {"type": "string"}, list: {"type": "array", "items": {"type": "string"}}}
#: comments that begin with `#:`, and the key that stands below them
_COMMENTED = re.compile(r"((?:^    #: .*\n)+)^    (\w+):", re.MULTILINE)


def job_schema() -> dict[str, Any]:
    """What a job file may hold."""
    made = JobSpec.model_json_schema()
    _describe(made, JobSpec)
    for name in JobSpec.model_fields:
        if (section := JobSpec.section(name)) is not None:
            _describe(made["$defs"][section.__name__], section)
            _allow_short(made["properties"], name, section)
    return {"$schema": DIALECT, "title": "A job of parquetry", **{k: v for k, v in made.items() if k != "title"}}


def _describe(schema: dict[str, Any], section: type[Section]) -> None:
    """Put what the code says of a key where editors show it."""
    for comment, key in _COMMENTED.findall(inspect.getsource(section)):
        if key in schema["properties"]:
            schema["properties"][key]["description"] = " ".join(comment.replace("#:", "").split())


def _allow_short(properties: dict[str, Any], name: str, section: type[Section]) -> None:
    if section.short_for:
        whole = {key: value for key, value in properties[name].items() if key in ("$ref", "anyOf")}
        rest = {key: value for key, value in properties[name].items() if key not in whole}
        properties[name] = {**rest, "anyOf": [whole, *(_KINDS[kind] for kind in section.short_kinds)]}
