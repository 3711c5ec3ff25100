"""Jobs over folders of small files, computed by an echo engine, and what their outputs must hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from parquetry.schemas.manifest import MANIFEST_FILE, SUCCESS_FILE, Manifest
from parquetry.schemas.spec.job import JobSpec
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.shard.outcome import run_claim
from parquetry.tasks.shard.worker_config import WorkerConfig
from tests.chaos.input_table import digits, write_model


class EchoJobs:
    """A folder `in` of files, an output `out`, and the specs of jobs from one to the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out"
        self.model = write_model(folder / "model")
        self.texts: dict[str, list[str]] = {}

    def write(self, name: str, numbers: range) -> None:
        """A file whose rows are these numbers, digit by digit."""
        self.texts[name] = [digits(number) for number in numbers]
        path = self.folder / "in" / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"id": list(numbers), "text": self.texts[name]}), path)

    def spec(self, on_existing: str = "refuse", **sections: Any) -> JobSpec:
        plain = {
            "task": "generate",
            "input": {"path": f"{self.folder}/in"},
            "output": {"path": str(self.output), "on_existing": on_existing},
            "model": {"id": str(self.model)},
            "prompt": {"template": "{{ text }}", "chat": False},
            "generation": {"max_new_tokens": 16},
            "shards": {"rows": 10},
        }
        return JobSpec.parse(plain | sections)

    def input(self, **more: Any) -> dict[str, Any]:
        return {"path": f"{self.folder}/in", **more}

    def parts(self) -> list[Path]:
        return sorted(self.output.glob("part-*.parquet"))

    def rows(self) -> list[tuple[int, str, str]]:
        """Row, text and output of every row, in the order of the parts."""
        tables = [pq.read_table(part, columns=["row", "text", "output"]) for part in self.parts()]
        return [tuple(row.values()) for table in tables for row in table.to_pylist()]

    def assert_whole(self, expected: list[str], *, twice: bool = False) -> None:
        """Every text once, in this order, computed by the job that stands in `_job.json`, and nothing else there."""
        outputs = [f"{text} {text}" if twice else text for text in expected]
        assert self.rows() == list(zip(range(len(expected)), expected, outputs, strict=True))
        manifest = Manifest.model_validate_json((self.output / MANIFEST_FILE).read_bytes())
        assert [part.path for part in manifest.parts] == [part.name for part in self.parts()]
        assert manifest.rows == len(expected)
        assert (self.output / SUCCESS_FILE).exists()


def work(ledger: Ledger, config: WorkerConfig, limit: int = 40) -> int:
    """Claim and run until there is nothing left; how many claims it took."""
    for count in range(limit):
        claim = ledger.claim(config.worker, ["default"])
        if claim is None:
            return count
        run_claim(ledger, claim, config)
    raise AssertionError(f"still not over after {limit} claims")
