"""What a shell completes: jobs by id and name, and the keys of a spec with the values that they may have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from parquetry.schemas.spec.job import JobSpec

#: the newest ones; a shell shows no more at once
MAX_JOBS = 100


def complete_jobs(incomplete: str) -> list[str]:
    """Ids and names of jobs that begin so. Nothing where there is no broker: a shell has no place for an error."""
    # imported when a shell asks, since every command passes here
    from parquetry.broker import open_ledger
    from parquetry.schemas.errors import ParquetryError
    from parquetry.tasks.ledger.job_names import LAST

    try:
        ledger = open_ledger()
        jobs = ledger.job_names()
        names = ledger.names(jobs[:MAX_JOBS])
    except ParquetryError:
        return []
    wanted = [LAST, *jobs, *filter(None, names.values())] if jobs else []
    return list(dict.fromkeys(text for text in wanted if text.startswith(incomplete)))[:MAX_JOBS]


def complete_keys(incomplete: str) -> list[str]:
    """`key=` of every key that begins so, and `key=value` where a key has listed values."""
    key, equals, value = incomplete.partition("=")
    keys = dict(spec_keys())
    if equals:
        return [f"{key}={choice}" for choice in _choices(keys.get(key)) if choice.startswith(value)]
    return [f"{name}=" for name in keys if name.startswith(key)]


def complete_cards(incomplete: str) -> list[str]:
    """Cards that a plan may be made for."""
    from parquetry.producers.plan.card_sheets import CARD_SHEETS

    return [name for name in CARD_SHEETS if name.startswith(incomplete.lower())]


def spec_keys(section: type[BaseModel] = JobSpec, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a spec, dotted, with its type."""
    for name, field in section.model_fields.items():
        inner = _section_of(field.annotation)
        if inner is not None:
            yield from spec_keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.annotation


def _section_of(kind: Any) -> type[BaseModel] | None:
    """The section that a key stands for; None for a plain value."""
    kinds = get_args(kind) or (kind,)
    return next((each for each in kinds if isinstance(each, type) and issubclass(each, BaseModel)), None)


def _choices(kind: Any) -> list[str]:
    """The values that a type lists, as YAML writes them."""
    if kind is bool:
        return ["true", "false"]
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [choice for each in get_args(kind) for choice in _choices(each)]
