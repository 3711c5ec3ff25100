"""Which files an input names: one file, a folder with hive partitions, a glob, or a list of these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property

import pyarrow as pa

from parquetry.producers.inputs.source import Source, is_hidden, partitions_of, trailing_partitions
from parquetry.producers.inputs.table_formats import FoundTable, TablesAround, tables_below, without_logs
from parquetry.schemas.errors import InputNotFoundError, UnreadableFileError
from parquetry.schemas.location import Location
from parquetry.schemas.spec.formats import (
    HEAD_BYTES,
    NAMES,
    FileKind,
    compression_of_content,
    format_of_content,
    kind_of_name,
    may_be_input,
    suffix_of,
)
from parquetry.schemas.storage.decompression import open_text
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Entry

_NUM_READERS = 16
_HIDDEN = "whose name, or whose folder's, begins with _ or ."
_UNKNOWN = f"of no format that is read here (those are {NAMES})"
_BESIDE = "that may be settings rather than rows, since files of other formats lie beside them"
_GONE = "that the table's log no longer counts"
_AGAIN = "another name of which is listed already"
_NO_LINES = "whose JSON is not one object a line (jq -c writes it so)"
#: what writers leave beside their files; none of it holds rows
_MARKERS = ("_SUCCESS", "_metadata", "_common_metadata", "_committed_", "_started_", ".DS_Store", ".crc")


@dataclass(frozen=True)
class FoundFile:
    """One input file as it was listed."""

    location: Location
    entry: Entry
    kind: FileKind
    #: hive partition columns read off the path; None is a null
    partitions: dict[str, str | None]

    @property
    def path(self) -> str:
        return str(self.location)

    @cached_property
    def real(self) -> Location:
        """Where its bytes lie: a name below a folder may be a link."""
        path = self.location.resolved
        return self.location if path == self.location.path else replace(self.location, path=path)

    @property
    def is_blank(self) -> bool:
        """A text file of no bytes: it has no rows, and no columns to compare."""
        return self.entry.size == 0 and self.kind.format != "parquet"


@dataclass
class Listing:
    """The files of an input, and what lay there besides."""

    files: list[FoundFile] = field(default_factory=list)
    #: files that are no input, counted by reason and suffix
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each reason why files were left out."""
        return tuple(f"left out: {part}" for part in self.parts)

    @property
    def parts(self) -> list[str]:
        """How many files of which suffix were left out, a text for each reason."""
        reasons = dict.fromkeys(reason for reason, _ in self.left_out)
        return [f"{self._counts(reason)}, {reason}" for reason in reasons]

    def _counts(self, reason: str) -> str:
        counts = [(suffix, count) for (why, suffix), count in self.left_out.most_common() if why == reason]
        shown = ", ".join(f"{count:,} with {suffix}" for suffix, count in counts[:5])
        total = sum(count for _, count in counts)
        return f"{total:,} {'file' if total == 1 else 'files'} ({shown}{', ...' if len(counts) > 5 else ''})"

    def leave_out(self, paths: Iterable[str], reason: str) -> None:
        """Count files that are no input; what writers leave beside their files is not worth a word."""
        names = (path.rpartition("/")[2] for path in paths)
        self.left_out.update((reason, suffix_of(n)) for n in names if not n.startswith(_MARKERS) and n[-4:] != ".crc")


def find_files(paths: str | list[str]) -> Listing:
    """The files of all items, each once, sorted by path.

    Raises InputNotFoundError for an item that has none, which says what is there, and TableFormatError.
    """
    found: dict[str, FoundFile] = {}
    total, around = Listing(), TablesAround()
    for text in [paths] if isinstance(paths, str) else paths:
        listing = _list_source(Source.parse(text), around)
        if not listing.files:
            raise InputNotFoundError(path=text, found=_found(listing))
        for file in listing.files:
            found.setdefault(file.path, file)
        total.left_out.update(listing.left_out)
    if not found:
        raise InputNotFoundError(path="an empty list", found="")
    total.files = [found[path] for path in sorted(found)]
    return _once(total)


def _once(listing: Listing) -> Listing:
    """The listing with each file under one of the names that links give it, the one with most partitions."""
    names: dict[str, list[FoundFile]] = {}
    for file in listing.files:
        names.setdefault(str(file.real), []).append(file)
    chosen = {max(same, key=lambda file: len(file.partitions)).path for same in names.values()}
    listing.leave_out((file.path for file in listing.files if file.path not in chosen), _AGAIN)
    listing.files = [file for file in listing.files if file.path in chosen]
    return listing


def _found(listing: Listing) -> str:
    return f"; there are only {'; and '.join(listing.parts)}" if listing.left_out else ""


def _list_source(source: Source, around: TablesAround) -> Listing:
    if source.pattern is None and source.base.name:
        entry = open_storage(source.base.parent).head(source.base.name)
        if entry is not None:
            return _live(Listing([_named_file(source.base, entry)]), [], around)
    entries = open_storage(source.base).list()
    below = tables_below(source.base, (entry.path for entry in entries))
    return _live(_known(source, without_logs(source.base, entries, below)), below, around)


def _named_file(location: Location, entry: Entry) -> FoundFile:
    kind = kind_of_name(location.name) or _kind_of_content(location)
    if kind is None:
        nothing = f"its content is neither Parquet nor JSON objects a line each, and its name ends in none of {NAMES}"
        jsonlike = "its JSON is not one object a line; write it so (jq -c . for objects, jq -c '.[]' for an array)"
        raise UnreadableFileError(path=location, reason=jsonlike if _is_json(location.name) else nothing)
    named = replace(entry, path=location.name)
    return FoundFile(location, named, kind, dict(trailing_partitions(location.parent)))


def _known(source: Source, entries: Iterable[Entry]) -> Listing:
    """The files of a folder or a glob whose kind is known, the others counted."""
    listing = Listing()
    fitting = [entry for entry in entries if source.fits(entry.path)]
    listing.leave_out((e.path for e in fitting if is_hidden(e.path)), _HIDDEN)
    shown = [entry for entry in fitting if not is_hidden(entry.path)]
    named = [(entry, kind) for entry in shown if (kind := kind_of_name(entry.path))]
    unnamed = [entry for entry in shown if kind_of_name(entry.path) is None]
    looked = _by_content(source, [entry for entry in unnamed if may_be_input(entry.path)])
    # one line of JSON may as well be settings
    doubtful = [pair for pair in looked if _is_json(pair[0].path)]
    chosen = [*named, *(pair for pair in looked if pair not in doubtful)] or doubtful
    if chosen is not doubtful:
        listing.leave_out((entry.path for entry, _ in doubtful), _BESIDE)
    readable = {entry.path for entry, _ in looked}
    unread = [entry.path for entry in unnamed if entry.path not in readable]
    listing.leave_out((path for path in unread if _is_json(path)), _NO_LINES)
    listing.leave_out((path for path in unread if not _is_json(path)), _UNKNOWN)
    listing.files = [_file_below(source, entry, kind) for entry, kind in sorted(chosen, key=lambda c: c[0].path)]
    return listing


def _is_json(path: str) -> bool:
    return ".json" in path.rpartition("/")[2].lower()


def _file_below(source: Source, entry: Entry, kind: FileKind) -> FoundFile:
    location = _checked(source.base.join(entry.path))
    return FoundFile(location, entry, kind, dict([*trailing_partitions(source.base), *partitions_of(entry.path)]))


def _by_content(source: Source, entries: list[Entry]) -> list[tuple[Entry, FileKind]]:
    """Those of the files whose first bytes tell what they are."""
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        kinds = readers.map(lambda entry: _kind_of_content(source.base.join(entry.path)), entries)
        return [(entry, kind) for entry, kind in zip(entries, kinds, strict=True) if kind is not None]


def _kind_of_content(location: Location) -> FileKind | None:
    """What the first bytes of a file say. Raises UnreadableFileError for Parquet within a compressed file."""
    with open_storage(location.parent).open(location.name) as stream:
        compression = compression_of_content(stream.read(8))
        stream.seek(0)
        try:
            with open_text(stream, compression) as text:
                head = text.read(HEAD_BYTES)
        except (pa.ArrowException, OSError):
            return None
    found = format_of_content(head)
    if found == "parquet" and compression is not None:
        raise UnreadableFileError(
            path=location, reason=f"it is Parquet compressed as a whole ({compression}); unpack it"
        )
    return None if found is None else FileKind(found, compression)


def _live(listing: Listing, below: Iterable[FoundTable], around: TablesAround) -> Listing:
    """The listing without the files that a table they belong to no longer counts."""
    for table in dict.fromkeys([*below, *_tables_around(listing.files, around)]):
        mine = [file for file in listing.files if table.root.contains(file.location)]
        gone = {file.path for file in mine if file.real.path not in table.live_files}
        listing.leave_out(gone, _GONE)
        listing.files = [file for file in listing.files if file.path not in gone]
    return listing


def _tables_around(files: Iterable[FoundFile], around: TablesAround) -> Iterator[FoundTable]:
    """The tables that files lie in, where they are and where links lead."""
    folders = dict.fromkeys(at.parent for file in files for at in (file.location, file.real))
    return (table for folder in folders if (table := around.of(folder)) is not None)


def _checked(location: Location) -> Location:
    # a link may lead outside the allowed roots; its own name is kept, for the suffix and the partitions
    Location.parse(str(location))
    return location
