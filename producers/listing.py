"""Which files an input names: one file, a folder with hive partitions, a glob, or a list of these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pyarrow as pa

from parquetry.producers.source import Source, is_hidden, partitions_of, trailing_partitions
from parquetry.producers.table_formats import FoundTable, table_around, tables_below
from parquetry.schemas.errors import InputNotFoundError, UnreadableFileError
from parquetry.schemas.formats import (
    HEAD_BYTES,
    NAMES,
    FileKind,
    compression_of_content,
    format_of_content,
    kind_of_name,
    may_be_input,
    suffix_of,
)
from parquetry.schemas.location import Location
from parquetry.schemas.storage.decompression import open_text
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Entry

_NUM_READERS = 16
_HIDDEN = "whose name, or whose folder's, begins with _ or ."
_UNKNOWN = f"of no format that is read here (those are {NAMES})"
_BESIDE = "that may be settings rather than rows, since files of other formats lie beside them"
_GONE = "that the table's log no longer counts"
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
    total = Listing()
    for text in [paths] if isinstance(paths, str) else paths:
        listing = _list_source(Source.parse(text))
        if not listing.files:
            raise InputNotFoundError(path=text, found=_found(listing))
        for file in listing.files:
            found.setdefault(file.path, file)
        total.left_out.update(listing.left_out)
    if not found:
        raise InputNotFoundError(path="an empty list", found="")
    total.files = [found[path] for path in sorted(found)]
    return total


def _found(listing: Listing) -> str:
    return f"; there are only {'; and '.join(listing.parts)}" if listing.left_out else ""


def _list_source(source: Source) -> Listing:
    if source.pattern is None and source.base.name:
        entry = open_storage(source.base.parent).head(source.base.name)
        if entry is not None:
            named = _named_file(source.base, entry)
            return _live(Listing([named]), _around(source.base.parent))
    entries = open_storage(source.base).list()
    listing = _known(source, entries)
    return _live(listing, [*_around(source.base), *tables_below(source.base, (entry.path for entry in entries))])


def _around(folder: Location) -> list[FoundTable]:
    table = table_around(folder)
    return [] if table is None else [table]


def _named_file(location: Location, entry: Entry) -> FoundFile:
    kind = kind_of_name(location.name) or _kind_of_content(location)
    if kind is None:
        reason = f"its content is neither Parquet nor JSON objects a line each, and its name ends in none of {NAMES}"
        raise UnreadableFileError(path=location, reason=reason)
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
    doubtful = [pair for pair in looked if ".json" in pair[0].path.rpartition("/")[2].lower()]
    chosen = [*named, *(pair for pair in looked if pair not in doubtful)] or doubtful
    if chosen is not doubtful:
        listing.leave_out((entry.path for entry, _ in doubtful), _BESIDE)
    readable = {entry.path for entry, _ in looked}
    listing.leave_out((entry.path for entry in unnamed if entry.path not in readable), _UNKNOWN)
    listing.files = [_file_below(source, entry, kind) for entry, kind in sorted(chosen, key=lambda c: c[0].path)]
    return listing


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


def _live(listing: Listing, tables: Iterable[FoundTable]) -> Listing:
    """The listing without the files that a table around them no longer counts."""
    for table in tables:
        mine = [file for file in listing.files if table.root.contains(file.location)]
        live = table.live_files() if mine else frozenset()
        gone = {file.path for file in mine if file.path not in live}
        listing.leave_out(gone, _GONE)
        listing.files = [file for file in listing.files if file.path not in gone]
    return listing


def _checked(location: Location) -> Location:
    # a link may lead outside the allowed roots; its own name is kept, for the suffix and the partitions
    Location.parse(str(location))
    return location
