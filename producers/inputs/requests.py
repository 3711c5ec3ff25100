"""Files of requests as one input: custom_ids that come again, and lines that ask for something else than the job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from parquetry.producers.inputs.footers import FileFacts
from parquetry.schemas.errors import InvalidValueError, UnreadableFileError
from parquetry.schemas.spec.job import JobSpec
from parquetry.workers.reading.batch_facts import repeated

#: lines whose custom_id came before, each noted in `_job.json`
MAX_REPEATED = 100_000


class AskedUrl(NamedTuple):
    """How many lines ask for one url, and the first of them."""

    lines: int
    first: str


def asked_urls(facts: Sequence[FileFacts]) -> dict[str, AskedUrl]:
    """Every url that lines ask for."""
    found: dict[str, AskedUrl] = {}
    for fact in facts:
        for url, count in fact.batch.urls.items() if fact.batch else ():
            first = f"line {fact.batch.first_lines[url]} of {fact.file.path}" if fact.batch else ""
            known = found.get(url, AskedUrl(0, first))
            found[url] = known._replace(lines=known.lines + count)
    return found


def require_asked(spec: JobSpec, asked: Mapping[str, AskedUrl]) -> None:
    """Raise InvalidValueError where no line asks for what the job answers."""
    if not asked or spec.url in asked:
        return
    url, (lines, first) = max(asked.items(), key=lambda pair: pair[1].lines)
    reason = f"no line asks for it; {lines:,} ask for {url[:80]}, the first is {first}"
    raise InvalidValueError(key="input.url", value=spec.url, reason=reason)


def url_notes(spec: JobSpec, asked: Mapping[str, AskedUrl]) -> Iterator[str]:
    """A sentence for each url that lines ask for and the job does not answer."""
    for url, (lines, first) in asked.items():
        if url != spec.url:
            says = "1 line asks" if lines == 1 else f"{lines:,} lines ask"
            yield f"{says} for {url[:80]}, and this job answers {spec.url}: error rows, the first is {first}"


def repeated_rows(facts: Sequence[FileFacts]) -> list[list[int]]:
    """For each file, rows whose custom_id came before. Raises UnreadableFileError for too many of them."""
    batches = [fact.batch for fact in facts if fact.batch is not None]
    if not batches:
        return [[] for _ in facts]
    found = repeated(batches)
    for fact, rows in zip(facts, found, strict=True):
        if len(rows) > MAX_REPEATED:
            reason = f"{len(rows):,} of its lines have the custom_id of an earlier one; give each line its own"
            raise UnreadableFileError(path=fact.file.path, reason=reason)
    return found


def repeated_notes(facts: Sequence[FileFacts], again: Sequence[Sequence[int]]) -> Iterator[str]:
    """A sentence on lines with a custom_id that came before."""
    if total := sum(map(len, again)):
        file = next(fact.file.path for fact, rows in zip(facts, again, strict=True) if rows)
        lines = "1 line has" if total == 1 else f"{total:,} lines have"
        yield f"{lines} the custom_id of an earlier line: error rows, the first in {file}"
