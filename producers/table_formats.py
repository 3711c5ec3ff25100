"""Tables that are more than their files: a Delta, Iceberg or Hudi folder also holds rows that are gone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from parquetry.schemas.errors import TableFormatError
from parquetry.schemas.location import Location
from parquetry.schemas.storage.opening import open_storage

TableFormat = Literal["Delta", "Iceberg", "Hudi"]
#: what lies in a table's own folder, and nowhere else
_SIGNS: dict[TableFormat, re.Pattern[str]] = {
    "Delta": re.compile(r"_delta_log/[^/]+"),
    "Iceberg": re.compile(r"metadata/(version-hint\.text|[^/]+\.metadata\.json(\.gz)?)"),
    "Hudi": re.compile(r"\.hoodie/.+"),
}
_FOLDERS = ("_delta_log/", "metadata/", ".hoodie/")
_SIGN = re.compile(r"(?P<root>(?:.*/)?)(?:_delta_log|metadata|\.hoodie)/.+")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class FoundTable:
    """A folder with a table's log or metadata in it."""

    root: Location
    format: TableFormat

    def live_files(self) -> frozenset[str]:
        """Locations of the files that hold the table's rows now. Raises TableFormatError where that cannot be told."""
        if self.format == "Hudi":
            raise self._refused("parquetry does not read Hudi; export the rows you want with Spark")
        try:
            found = _delta_files(self) if self.format == "Delta" else _iceberg_files(self)
        except ImportError:
            wanted = "pip install 'parquetry[tables]' here to read only the live ones"
            raise self._refused(f"{wanted}, or export the table to plain Parquet files") from None
        outside = next((path for path in found if not self.root.contains(Location.parse(path))), None)
        if outside is not None:
            raise self._refused(f"its file {outside} lies elsewhere; export the table to plain Parquet files")
        return found

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


def table_around(folder: Location) -> FoundTable | None:
    """The table that a folder is a partition or a data folder of."""
    at = folder
    while "=" in at.name:
        at = at.parent
    for candidate in (at, at.parent) if at.name == "data" else (at,):
        storage = open_storage(candidate)
        found = tables_below(candidate, (entry.path for name in _FOLDERS for entry in storage.list(name)))
        if own := next((table for table in found if table.root == candidate), None):
            return own
    return None


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
    return frozenset(str(Location.parse(_plain(uri))) for uri in table.file_uris())


def _iceberg_files(found: FoundTable) -> frozenset[str]:
    from pyiceberg.table import StaticTable

    try:
        table = StaticTable.from_metadata(str(found.root.join(_newest_metadata(found.root))))
        tasks = list(table.scan().plan_files())
    # the same
    except Exception as error:
        raise found._refused(f"its metadata cannot be read ({_sentence(error)}); repair or export it") from error
    found.refuse_unless(not any(task.delete_files for task in tasks), "delete files")
    found.refuse_unless(_names_are_stable(table), "renamed columns")
    return frozenset(str(Location.parse(_plain(task.file.file_path))) for task in tasks)


def _names_are_stable(table: Any) -> bool:
    """Whether a field has had one name, and a name one field: files are read by name, Iceberg reads them by number."""
    names: dict[int, str] = {}
    numbers: dict[str, int] = {}
    pairs = [(field.field_id, field.name) for schema in table.metadata.schemas for field in schema.fields]
    return all(names.setdefault(i, n) == n and numbers.setdefault(n, i) == i for i, n in pairs)


def _newest_metadata(root: Location) -> str:
    """The metadata file of the last version, by the number its name begins with."""
    names = [entry.path for entry in open_storage(root).list("metadata/") if ".metadata.json" in entry.path]
    return max(names, key=lambda name: int((_NUMBER.search(name) or [0])[0]))


def _plain(uri: str) -> str:
    return uri.removeprefix("file://") if uri.startswith("file:///") else uri


def _sentence(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
