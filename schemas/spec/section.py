"""A section of the job spec: frozen, strict, and refused with a sentence that names the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from parquetry.schemas.errors import InvalidValueError, UnknownKeyError, suggestion

Positive = Annotated[int, Field(gt=0)]
#: what pydantic names the branches of a union, which no key of a spec is called
_UNION_TAGS = {"str", "list[str]", "bool", "int", "literal['auto']", "constrained-int"}


class Section(BaseModel):
    """A frozen part of the spec that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())
    #: the key that a plain value in the place of the whole section stands for, and what that value may be
    short_for: ClassVar[str] = ""
    short_kinds: ClassVar[tuple[type, ...]] = (str,)

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, value: Any) -> Any:
        return cls.spelled_out(value)

    @classmethod
    def spelled_out(cls, value: Any) -> Any:
        """The section with its keys, where a plain value stands for it: `model: PATH` is `model: {id: PATH}`."""
        return {cls.short_for: value} if cls.short_for and isinstance(value, cls.short_kinds) else value


def first_problem(error: ValidationError, spec: type[Section]) -> UnknownKeyError | InvalidValueError:
    """What is said of a spec that was refused: an unknown key first, else the first value that is off."""
    problems = error.errors(include_url=False)
    unknown = next((p for p in problems if p["type"] == "extra_forbidden"), None)
    if unknown is not None:
        return _unknown_key(unknown["loc"], spec)
    problem = problems[0]
    key = ".".join(str(part) for part in problem["loc"] if part not in _UNION_TAGS) or "top level"
    missing = problem["type"] == "missing"
    # an address of a webhook may hold a token
    value = "missing" if missing else "not usable" if key.startswith("notify") else _shorten(problem["input"])
    reason = "it is required" if missing else problem["msg"].removeprefix("Value error, ")
    return InvalidValueError(key=key, value=value, reason=reason[:1].lower() + reason[1:])


def _unknown_key(location: tuple[int | str, ...], spec: type[Section]) -> UnknownKeyError:
    section: type[BaseModel] = spec
    for part in location[:-1]:
        kind = section.model_fields[str(part)].annotation
        # a section that may be left out is one of a union
        section = next(
            each for each in (kind, *get_args(kind)) if isinstance(each, type) and issubclass(each, BaseModel)
        )
    name = str(location[-1])
    return UnknownKeyError(key=repr(".".join(map(str, location))), suggestion=suggestion(name, section.model_fields))


def _shorten(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping" if value else "empty"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
