"""A job under test: submitted as a producer does, judged from its output folder."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import redis

from parquetry.producers.submission import submit
from parquetry.schemas.spec.job import JobSpec
from tests.chaos.checker import Findings, check
from tests.chaos.echo_engine import rows_begun
from tests.chaos.ledger_audit import audit
from tests.chaos.process import wait_until
from tests.chaos.report import Outcome
from tests.chaos.s3_server import S3Server
from tests.chaos.server import Server


class Job:
    """One job of one server, whose rows an echo engine answers."""

    def __init__(self, folder: Path, server: Server, env: str, name: str, s3: S3Server | None) -> None:
        self.folder, self.server, self.env, self.name, self.s3 = folder, server, env, name, s3
        self.table = folder / f"{name}.parquet"
        self.output = f"s3://chaos/{folder.name}-{name}" if s3 else str(folder / name)
        self.log = folder / "rows"
        self.id = ""

    def submit(self, shard_rows: int, **options: object) -> None:
        """Register it. The table must have been written."""
        from parquetry.tasks.broker.connection import connect
        from parquetry.tasks.ledger.ledger import Ledger

        spec = self.spec(shard_rows, **options)
        self.id = submit(spec, Ledger(connect(self.server.url), self.env), broker_url=self.server.url).job

    def spec(self, shard_rows: int, **options: object) -> JobSpec:
        return JobSpec.parse(
            {
                "task": "generate",
                "input": {"path": str(self.table), "columns": ["id", "text"]},
                "output": {"path": self.output, "keep": ["id"]},
                "model": {"id": str(self.folder / "model")},
                "prompt": {"template": "{{ text }}"},
                "generation": {"max_new_tokens": 64},
                "shards": {"rows": shard_rows},
                **options,
            }
        )

    @property
    def state(self) -> str:
        return self.field("state")

    @property
    def done(self) -> int:
        """Committed shards, by the ledger's counter."""
        return int(self.field("done") or 0)

    def field(self, name: str) -> str:
        """One field of the job's ctl hash, empty when the ledger does not answer or does not know it."""
        try:
            return (self.server.client().hget(f"pq:{self.env}:{{{self.id}}}:ctl", name) or b"").decode()
        except redis.RedisError:
            return ""

    def wait_for_commits(self, count: int, timeout_s: float = 180.0) -> float:
        return wait_until(lambda: self.done >= count, timeout_s, f"{count} commits of {self.id}")

    def wait_for_end(self, timeout_s: float = 120.0) -> float:
        """Seconds until the job has ended, as done or as failed."""
        return wait_until(lambda: self.state in ("done", "failed"), timeout_s, f"the end of {self.id}")

    def progress(self, timeout_s: float = 180.0) -> float:
        """Seconds until another shard is committed than those that are now, or the job is over."""
        before, begin = self.done, time.monotonic()
        wait_until(lambda: self.done > before or self.state == "done", timeout_s, f"a commit of {self.id}")
        return time.monotonic() - begin

    def judge(self, outcome: Outcome, *, finished: bool = True) -> Findings:
        """Add what the checker and the audit find to `outcome`."""
        findings = check(self.local_output(), self.table, finished=finished)
        outcome.rows += findings.rows
        outcome.lost += findings.lost
        outcome.doubled += findings.doubled
        outcome.violations += findings.violations
        parts = sum(1 for _ in self.local_output().glob("part-*"))
        outcome.violations += audit(self.server.client(), self.env, self.id, parts if finished else None)
        return findings

    def local_output(self) -> Path:
        """The output folder, or a copy of it from the object store."""
        if self.s3 is None:
            return Path(self.output)
        return self.s3.download(self.output.removeprefix("s3://chaos/"), self.folder / f"{self.name}-copy")

    def recomputed(self, shard_rows: int) -> int:
        """Attempts at shards that repeated at least one row."""
        most: Counter[int] = Counter()
        for row, times in Counter(rows_begun(self.log)).items():
            most[row // shard_rows] = max(most[row // shard_rows], times - 1)
        return sum(most.values())
