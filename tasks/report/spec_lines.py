"""A job spec key by key, each beside its default: what somebody has chosen stands out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from parquetry.schemas.spec.job import JobSpec


class SpecLine(BaseModel):
    """One key of a spec."""

    #: dotted, as `--set` takes it
    key: str
    value: Any
    #: None where a value has to be given
    default: Any
    is_chosen: bool


#: sections that say nothing of a task
OTHER_TASKS = {
    "generate": ("classify", "embed"),
    "classify": ("prompt", "generation", "embed"),
    "score": ("prompt", "generation", "embed"),
    "embed": ("prompt", "generation", "classify"),
}


def spec_lines(spec: JobSpec) -> list[SpecLine]:
    """Every key of the sections that the task uses, in the order of the spec."""
    skipped = OTHER_TASKS.get(spec.task, ())
    return [line for line in _lines(spec, "") if line.key.partition(".")[0] not in skipped]


def _lines(section: BaseModel, prefix: str) -> Iterator[SpecLine]:
    plain = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _lines(value, f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True, validated_data={})
            required = default is PydanticUndefined
            default = None if required else default
            chosen = required or value != default
            yield SpecLine(key=prefix + name, value=plain[name], default=_plain(default), is_chosen=chosen)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
