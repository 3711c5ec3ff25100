"""An independent judge of a finished job: reads the output folder and the input table, and nothing else.

It imports nothing of ours, so that a mistake of ours cannot hide itself here. What it asserts:

I1  every input row is in the output exactly once, with the right content
I2  the job and shard in each footer match the file's folder and name
I3  `_SUCCESS` is there only with a full and true manifest
I4  no file lies beside those of the manifest, `_attempts/` and our five records aside
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_PART = re.compile(r"part-(\d{8})\.parquet")
_RECORDS = {"_job.json", "_manifest.json", "_SUCCESS", "_history.json", "_report.html", "_retries"}


@dataclass
class Findings:
    """What is wrong with an output; nothing when `violations` is empty."""

    rows: int = 0
    lost: int = 0
    doubled: int = 0
    #: rows whose content is not what the input calls for
    wrong: int = 0
    error_rows: int = 0
    violations: list[str] = field(default_factory=list)

    def require(self, truth: bool, violation: str) -> None:
        if not truth:
            self.violations.append(violation)


def check(output: Path, table: Path, *, finished: bool = True) -> Findings:
    """Judge the job in folder `output`, whose input is the Parquet file `table` (columns id, text, expect).

    `expect` is "echo" where the output must equal the text, "error" where the row must be an error row, and "any"
    where either is right. A job that is not `finished` may lack rows, but must not claim to be whole.
    """
    findings = Findings()
    record = json.loads((output / "_job.json").read_bytes())
    parts = sorted(path for path in output.iterdir() if _PART.fullmatch(path.name))
    _check_files(findings, output, parts, finished)
    for part in parts:
        _check_footer(findings, part, record)
    _check_rows(findings, parts, pq.read_table(table), finished)
    return findings


def _check_files(findings: Findings, output: Path, parts: list[Path], finished: bool) -> None:
    success, manifest = (output / "_SUCCESS").exists(), output / "_manifest.json"
    findings.require(success or not finished, "I3: the job is over but there is no _SUCCESS")
    findings.require(manifest.exists() or not success, "I3: _SUCCESS without a manifest")
    strays = [p.name for p in output.iterdir() if p.name not in _RECORDS | {"_attempts"} and p not in parts]
    findings.require(not strays, f"I4: stray files {strays[:3]}")
    if manifest.exists():
        _check_manifest(findings, output, parts, json.loads(manifest.read_bytes()))


def _check_manifest(findings: Findings, output: Path, parts: list[Path], manifest: dict[str, Any]) -> None:
    listed = {entry["path"]: entry for entry in manifest["parts"]}
    present = {part.name for part in parts}
    findings.require(len(listed) == len(manifest["parts"]), "I3: the manifest lists a part twice")
    findings.require(not present - set(listed), f"I4: parts outside the manifest {sorted(present - set(listed))[:3]}")
    findings.require(not set(listed) - present, f"I3: missing parts {sorted(set(listed) - present)[:3]}")
    for name in sorted(present & set(listed)):
        data = (output / name).read_bytes()
        true = hashlib.sha256(data).hexdigest() == listed[name]["sha256"] and len(data) == listed[name]["size"]
        findings.require(true, f"I3: the manifest's checksum or size of {name} is wrong")
    findings.require(sum(e["rows"] for e in listed.values()) == manifest["rows"], "I3: the manifest's rows do not add")


def _check_footer(findings: Findings, part: Path, record: dict[str, Any]) -> None:
    index = int(_PART.fullmatch(part.name).group(1))
    bounds = record["plan"]["bounds"]
    footer = pq.ParquetFile(part)
    notes = {key.decode(): value.decode() for key, value in (footer.schema_arrow.metadata or {}).items()}
    findings.require(notes.get("parquetry.job") == record["job"], f"I2: {part.name} has the footer of another job")
    findings.require(notes.get("parquetry.shard") == str(index), f"I2: {part.name} has the footer of another shard")
    rows = footer.read(columns=["row"]).column("row").to_pylist()
    findings.require(rows == list(range(bounds[index], bounds[index + 1])), f"I2: {part.name} holds other rows")


def _check_rows(findings: Findings, parts: list[Path], wanted: pa.Table, finished: bool) -> None:
    found = [row for part in parts for row in pq.read_table(part).select(_COLUMNS).to_pylist()]
    times = Counter(row["id"] for row in found)
    ids = wanted.column("id").to_pylist()
    findings.rows = len(ids)
    findings.lost = sum(1 for i in ids if not times[i]) if finished else 0
    findings.doubled = sum(count - 1 for count in times.values() if count > 1)
    findings.error_rows = sum(1 for row in found if row["error"] is not None)
    findings.wrong = sum(1 for row in found if not _is_right(row, ids, wanted))
    findings.require(not findings.lost, f"I1: {findings.lost} rows lost")
    findings.require(not findings.doubled, f"I1: {findings.doubled} rows doubled")
    findings.require(not findings.wrong, f"I1: {findings.wrong} rows have another content")


_COLUMNS = ["id", "row", "output", "error"]


def _is_right(row: dict[str, Any], ids: list[int], wanted: pa.Table) -> bool:
    position = row["row"]
    if not 0 <= position < len(ids) or ids[position] != row["id"]:
        return False
    expect, text = wanted.column("expect")[position].as_py(), wanted.column("text")[position].as_py()
    echoed = row["error"] is None and row["output"].strip() == text
    failed = row["error"] is not None
    return {"echo": echoed, "error": failed, "any": echoed or failed}[expect]
