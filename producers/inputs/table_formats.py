"""Tables that are more than their files: a Delta, Iceberg or Hudi folder also holds rows that are gone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from parquetry.producers.inputs.source import partitions_of
from parquetry.schemas.errors import StorageError, TableFormatError
from parquetry.schemas.location import Location
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Entry

TableFormat = Literal["Delta", "Iceberg", "Hudi"]
#: what lies in a table's own folder, and nowhere else
_SIGNS: dict[TableFormat, re.Pattern[str]] = {
    "Delta": re.compile(r"_delta_log/[^/]+"),
    "Iceberg": re.compile(r"metadata/(version-hint\.text|[^/]+\.metadata\.json(\.gz)?)"),
    "Hudi": re.compile(r"\.hoodie/.+"),
}
_LOGS = ("_delta_log/", "metadata/", ".hoodie/")
_SIGN = re.compile(r"(?P<root>(?:.*/)?)(?:_delta_log|metadata|\.hoodie)/.+")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class FoundTable:
    """A folder with a table's log or metadata in it."""

    root: Location
    format: TableFormat

    @cached_property
    def live_files(self) -> frozenset[str]:
        """Resolved paths of the files that hold the table's rows now. Raises TableFormatError where that is unknown."""
        if self.format == "Hudi":
            raise self._refused("parquetry does not read Hudi; export the rows you want with Spark")
        try:
            found = _delta_files(self) if self.format == "Delta" else _iceberg_files(self)
        except ImportError:
            wanted = "pip install 'parquetry[tables]' here to read only the live ones"
            raise self._refused(f"{wanted}, or export the table to plain Parquet files") from None
        for path in found:
            if not self.root.contains(Location.parse(path)):
                raise self._refused(f"its file {path} lies elsewhere; export the table to plain Parquet files")
        live = frozenset(Location.parse(path).resolved for path in found)
        if lost := live - {self.root.join(entry.path).resolved for entry in open_storage(self.root).list()}:
            raise self._refused(f"its file {min(lost)} is gone; restore it, or export what is left of the table")
        return live

    def refuse_unless(self, honoured: bool, what: str) -> None:
        """Raise TableFormatError where the table uses something that reading plain files would get wrong."""
        if not honoured:
            raise self._refused(f"it uses {what}, which its files alone do not show; export it to plain Parquet files")

    def _refused(self, remedy: str) -> TableFormatError:
        return TableFormatError(path=self.root, format=self.format, remedy=remedy)


def tables_below(root: Location, paths: Iterable[str]) -> list[FoundTable]:
    """The tables among the files of a folder, given as paths below it."""
    found: dict[str, FoundTable] = {}
    for path in paths:
        match = _SIGN.fullmatch(path)
        for folder in _roots_of(path) if match else ():
            rest = path[len(folder) :]
            kind = next((kind for kind, sign in _SIGNS.items() if sign.fullmatch(rest)), None)
            if kind is not None:
                at = root.join(folder.rstrip("/")) if folder else root
                found.setdefault(str(at), FoundTable(at, kind))
    return list(found.values())


def without_logs(root: Location, entries: Iterable[Entry], tables: Iterable[FoundTable]) -> list[Entry]:
    """The files of a folder less those of the logs and the metadata of the tables in it."""
    roots = {str(table.root) for table in tables}
    return [entry for entry in entries if not (roots and _log_root(root, entry.path) in roots)]


def _log_root(root: Location, path: str) -> str | None:
    match = _SIGN.fullmatch(path)
    return None if match is None else str(root.join(match["root"].rstrip("/")) if match["root"] else root)


class TablesAround:
    """Finds the tables that folders lie in, however deep, and looks at each folder once."""

    def __init__(self) -> None:
        self._own: dict[Location, FoundTable | None] = {}

    def of(self, folder: Location) -> FoundTable | None:
        """The innermost table whose folder this is or lies in."""
        while folder.name:
            # a partition is no table, and there may be thousands
            own = None if "=" in folder.name else self._own_table(folder)
            if own is not None:
                return own
            folder = folder.parent
        return self._own_table(folder)

    def _own_table(self, folder: Location) -> FoundTable | None:
        if folder not in self._own:
            found = tables_below(folder, _paths_of_logs(folder))
            self._own[folder] = next((table for table in found if table.root == folder), None)
        return self._own[folder]


def _paths_of_logs(folder: Location) -> list[str]:
    try:
        storage = open_storage(folder)
        return [entry.path for name in _LOGS for entry in storage.list(name)]
    # a folder above that nobody may list; the input itself has been listed already
    except StorageError:
        return []


def _roots_of(path: str) -> Iterator[str]:
    """Every folder above a file, each with its slash, the top as the empty text."""
    parts = path.split("/")[:-1]
    return ("".join(f"{part}/" for part in parts[:depth]) for depth in range(len(parts) + 1))


def _delta_files(found: FoundTable) -> frozenset[str]:
    from deltalake import DeltaTable

    try:
        table = DeltaTable(str(found.root))
    # the library raises errors of its own for a log that it cannot read
    except Exception as error:
        raise found._refused(f"its log cannot be read ({_sentence(error)}); repair or export it") from error
    settings = table.metadata().configuration
    features = table.protocol().reader_features or []
    found.refuse_unless(settings.get("delta.columnMapping.mode", "none") == "none", "column mapping")
    found.refuse_unless("deletionVectors" not in features, "deletion vectors")
    paths = frozenset(str(Location.parse(_plain(uri))) for uri in table.file_uris())
    told = [dict(partitions_of(path)) for path in paths]
    named = all(column in partitions for column in table.metadata().partition_columns for partitions in told)
    found.refuse_unless(named, "partitions that its paths do not name")
    return paths


def _iceberg_files(found: FoundTable) -> frozenset[str]:
    from pyiceberg.table import StaticTable

    try:
        table = StaticTable.from_metadata(str(found.root.join(_newest_metadata(found.root))))
        tasks = list(table.scan().plan_files())
    # the same
    except Exception as error:
        raise found._refused(f"its metadata cannot be read ({_sentence(error)}); repair or export it") from error
    found.refuse_unless(not any(task.delete_files for task in tasks), "delete files")
    formats = {str(task.file.file_format).upper() for task in tasks}
    found.refuse_unless(all(name.endswith("PARQUET") for name in formats), "files other than Parquet")
    found.refuse_unless(_names_are_stable(table), "columns that were renamed or dropped")
    found.refuse_unless(not any(getattr(f, "initial_default", None) for f in table.schema().fields), "default values")
    return frozenset(str(Location.parse(_plain(task.file.file_path))) for task in tasks)


def _names_are_stable(table: Any) -> bool:
    """Whether every field there ever was is there under its name: files are read by name, Iceberg reads by number."""
    now = _fields(table.schema())
    return all(_fields(schema) <= now for schema in table.metadata.schemas)


def _fields(schema: Any) -> set[tuple[int, str]]:
    return {(schema.find_field(name).field_id, name) for name in schema.column_names}


def _newest_metadata(root: Location) -> str:
    """The metadata file of the last version, by the number its name begins with."""
    names = [entry.path for entry in open_storage(root).list("metadata/") if ".metadata.json" in entry.path]
    return max(names, key=lambda name: int((_NUMBER.search(name) or [0])[0]))


def _plain(uri: str) -> str:
    return uri.removeprefix("file://") if uri.startswith("file:///") else uri


def _sentence(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
