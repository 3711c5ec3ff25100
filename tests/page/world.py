"""Jobs for the page to show, in every state, in a real broker and with real parts; nothing is computed."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import redis

from parquetry.schemas.manifest import JOB_FILE, JobRecord, PartRecord, job_id
from parquetry.schemas.progress.events import JobEvent
from parquetry.schemas.progress.history import HistoryPoint
from parquetry.schemas.progress.states import EnginePhase, JobState
from parquetry.schemas.progress.status import DeviceUse, EngineState, EngineStats
from parquetry.schemas.shard import InputFile, ShardPlan, part_name
from parquetry.schemas.spec.columns import ERROR, ROW, schema_text
from parquetry.schemas.spec.job import JobSpec
from parquetry.tasks.keys import Keys
from parquetry.tasks.ledger.claim import LeaseProgress
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.workers.shards.shard_progress import error_kind

WORKERS = ("gpu-node-3-811-0-a41c9e", "gpu-node-3-811-1-77b2d0")
QUEUES = ("default",)
SCHEMA = pa.schema([pa.field("ticket", pa.string()), pa.field("text", pa.string())])
TICKETS = (
    "The invoice of March lists two seats that we gave back in February. Please correct it before Friday.",
    "Since the update on Tuesday the export to CSV writes dates as numbers. We use it every morning for the warehouse.",
    "Hello, I can't log in with my new phone. The code never arrives, although the number in my profile is right.",
    "We would like to move from the monthly to the yearly plan. Does the discount apply to the seats we add later?",
    "The search finds nothing for words with an umlaut, such as Gebäude. It did last week.",
    "Thank you for the quick help yesterday! One question is left: may a guest comment without an account?",
)
ANSWERS = (
    "Billing: two returned seats were charged in March; wants a corrected invoice before Friday.",
    "Bug: CSV export writes dates as numbers since Tuesday's update; blocks a daily warehouse process.",
    "Access: two-factor code does not reach the customer's new phone.",
    "Sales: asks whether the yearly discount covers seats added later.",
    "Bug: search fails for words with umlauts since last week.",
    "Question: whether guests may comment without an account.",
)
TOO_LONG = "the prompt has 9,412 tokens and leaves no room for an output; the model's window is 8,192"
NOT_UTF8 = "text is not valid UTF-8"
HOSTILE = "</script><img src=x onerror=document.title='owned'>"


class World:
    """Makes jobs in one environment of a broker; their outputs lie below `folder`."""

    def __init__(self, client: redis.Redis, ledger: Ledger, folder: Path) -> None:
        self.client = client
        self.ledger = ledger
        self.keys = Keys(ledger.env)
        self.folder = folder
        self.random = random.Random(7)

    def record(self, name: str, *, shards: int = 240, rows: int = 250, **spec: Any) -> JobRecord:
        """A job of this name whose `_job.json` is written; sections of `spec` replace those of a usual one."""
        output = self.folder / name
        parsed = JobSpec.parse(
            {
                "task": "generate",
                "name": name,
                "input": {"path": "/data/tickets/*.parquet"},
                "output": {"path": str(output)},
                "model": {"id": "/models/Qwen3-8B", "quantization": "fp8"},
                "prompt": {"template": "Summarise this ticket in one line:\n{{ text }}", "system": "You are brief."},
                "generation": {"max_new_tokens": 96, "temperature": 0.3},
                **spec,
            }
        )
        files = tuple(
            InputFile(path=f"/data/tickets/{month}.parquet", num_rows=shards * rows // 4, size=38_000_000, etag="e")
            for month in ("2026-01", "2026-02", "2026-03", "2026-04")
        )
        plan = ShardPlan(files=files, bounds=tuple(range(0, shards * rows + 1, rows)))
        found = JobRecord(
            job=job_id(parsed), created="2026-11-28T04:00:00Z", spec=parsed, model_path="/models/Qwen3-8B",
            shard_plan=plan, input_schema=schema_text(SCHEMA),
        )  # fmt: skip
        output.mkdir(parents=True, exist_ok=True)
        (output / JOB_FILE).write_bytes(found.stored())
        return found

    def submit(self, name: str, *, age_s: float = 0.0, **how: Any) -> JobRecord:
        """A registered job that began `age_s` ago."""
        record = self.record(name, **how)
        job = record.job
        self.ledger.register(record)
        created = int((time.time() - age_s) * 1000)
        self.client.hset(self.keys.of_job(job, "ctl"), "created", created)
        self.client.zadd(self.keys.jobs, {job: created})
        self.client.delete(self.keys.of_job(job, "evts"))
        self.note(job, JobEvent(created, "registered", None, ""))
        return record

    def note(self, job: str, event: JobEvent) -> None:
        """An event with a time of its own."""
        shard = "-" if event.shard is None else event.shard
        self.client.rpush(self.keys.of_job(job, "evts"), f"{event.at_ms} {event.kind} {shard} {event.text}")

    def past(self, job: str, seconds: float, *, rows_per_s: float, output_per_s: float) -> None:
        """A history of this length that ends now: a load, a rise, a second worker, noise."""
        now, points, total = time.time() * 1000, [], [0.0] * 6
        for step in range(121):
            share = step / 120
            speed = 0.0 if share < 0.06 else (0.55 if share < 0.4 else 1.0) * self.random.uniform(0.93, 1.04)
            passed = seconds / 120
            computed = (output_per_s * 5.1 * speed * passed, output_per_s * speed * passed)
            total = [total[0] + rows_per_s * speed * passed, *total[1:]]
            for place, value in enumerate((*computed, computed[1] + computed[0] * 0.7, computed[0] * 0.02), 1):
                total[place] += value
            total[5] += computed[0] * 0.31
            points.append(
                HistoryPoint(
                    int(now - (120 - step) * passed * 1000), rows=int(total[0]), computed_prompt_tokens=int(total[1]),
                    computed_output_tokens=int(total[2]), workers=(0 if not speed else 1 if share < 0.4 else 2),
                    active_ms=int(max(0.0, share - 0.06) * seconds * 1000),
                    worker_ms=int(max(0.0, share - 0.06) * seconds * 1650), requests_running=180,
                    kv_use=int(620 * speed + self.random.uniform(0, 40)), engine_computed_tokens=int(total[3]),
                    engine_padding_tokens=int(total[4]), engine_prompt_tokens=int(total[1]),
                    engine_cached_tokens=int(total[5]),
                )
            )  # fmt: skip
        # what the making of the world has noted is no history of a job
        self.client.delete(*(self.keys.of_job(job, name) for name in ("past", "late")))
        self.ledger.histories.restore(job, points)
        self.client.rpush(self.keys.of_job(job, "late"), *(point.line for point in points[-20:]))
        self.client.hset(self.keys.of_job(job, "ctl"), "pointed", int(now))

    def commit(self, record: JobRecord, worker: str, count: int, errors: Iterable[tuple[int, str]] = ()) -> None:
        """`worker` takes and commits the next `count` shards; `errors` are the places of error rows in each."""
        errors = dict(errors)
        kinds: dict[str, int] = {}
        for reason in errors.values():
            kinds[error_kind(reason)] = kinds.get(error_kind(reason), 0) + 1
        for _ in range(count):
            claim = self.ledger.claim(worker, QUEUES)
            assert claim is not None and claim.job == record.job
            rows = record.shard_plan.shard(claim.shard).num_rows
            part = PartRecord(
                path=part_name(claim.shard), shard=claim.shard, fence=claim.fence, rows=rows, error_rows=len(errors),
                size=1, sha256=f"{claim.shard:064x}", etag="e", prompt_tokens=rows * 212, output_tokens=rows * 41,
                shard_ms=self.random.randint(48_000, 75_000), prepare_ms=3_100, write_ms=420, errors=kinds,
            )  # fmt: skip
            self.ledger.commit(claim, part)

    def write_part(self, record: JobRecord, shard: int, errors: dict[int, str] | None = None) -> None:
        """The part of a shard, as a worker would have left it."""
        errors, plan = errors or {}, record.shard_plan.shard(shard)
        numbers = range(plan.first_row, plan.first_row + plan.num_rows)
        failed = [errors.get(place) for place in range(plan.num_rows)]
        columns = {
            "ticket": [f"T-{48_000 + row}" for row in numbers],
            "text": [HOSTILE if row == plan.first_row + 1 else TICKETS[row % len(TICKETS)] for row in numbers],
            ROW.name: list(numbers),
            "output": [None if bad else ANSWERS[row % len(ANSWERS)] for row, bad in zip(numbers, failed, strict=True)],
            "finish_reason": ["error" if bad else "stop" for bad in failed],
            "prompt_tokens": [None if bad else 190 + row % 40 for row, bad in zip(numbers, failed, strict=True)],
            "output_tokens": [None if bad else 17 + row % 9 for row, bad in zip(numbers, failed, strict=True)],
            ERROR.name: failed,
        }
        keys = {
            "job": record.job, "shard": str(shard), "fence": "41", "rows": str(plan.num_rows), "task": "generate",
            "error_rows": str(len(errors)), "model": record.spec.model.id, "weights": "sha256:9d0f6c51a7e2",
            "quantization": "fp8", "backend": "packed", "attention": "flash_attention_3", "dtype": "bfloat16",
            "versions": json.dumps({"parquetry": "0.1.0", "torch": "2.13.0", "transformers": "5.17.0"}),
        }  # fmt: skip
        schema = pa.schema(
            [(name, pa.string() if _is_text(values) else pa.int64()) for name, values in columns.items()]
        )
        table = pa.table(
            columns, schema=schema.with_metadata({f"parquetry.{key}": value for key, value in keys.items()})
        )
        pq.write_table(table, f"{record.spec.output.path}/{part_name(shard)}")

    def worker(
        self,
        name: str,
        *,
        card: str | None = "NVIDIA H100 80GB HBM3",
        phase: EnginePhase = EnginePhase.READY,
        **state: Any,
    ) -> None:
        """A live worker, busy unless its engine is not ready."""
        busy = phase is EnginePhase.READY
        counts = {"seconds": 900.0, "busy_seconds": 880.0, "computed_tokens": 9_000_000, "decode_tokens": 1_500_000}
        engine = EngineStats(
            **counts,
            padding_tokens=180_000,
            cached_tokens=2_300_000,
            running=184,
            waiting=316,
            kv_use=0.63,
            steps=9_000,
        )
        before = EngineStats(seconds=890.0, busy_seconds=870.5, computed_tokens=8_898_000, decode_tokens=1_483_200,
                             padding_tokens=178_000, cached_tokens=2_274_000, steps=8_900)  # fmt: skip
        memory = {"memory_used_bytes": int(71.4e9) if busy else int(6e9), "memory_total_bytes": int(85.5e9)}
        use = DeviceUse(name=card, use=0.96 if busy else 0.0, **memory)
        loaded = {"phase": phase, "model": "/models/Qwen3-8B", "quantization": "fp8", "weight_bytes": 8_900_000_000}
        self.ledger.roster.announce(
            name, host="gpu-node-3", device="cuda:0" if card else "cpu", queues=QUEUES, shards_in_flight=2,
            engine=engine if busy else None, engine_before=before if busy else None, device_use=use if card else None,
            state=EngineState(**{**loaded, **state}),
        )  # fmt: skip

    def running(self, name: str = "tickets") -> JobRecord:
        """A job at three fifths, with two workers, error rows, a shard that was lost and one that failed."""
        record = self.submit(name, age_s=2400)
        workers = ("gpu-node-3-811-0-a41c9e", "gpu-node-3-811-1-77b2d0")
        for name in workers:
            self.worker(name)
        self.commit(record, workers[0], 70)
        self.commit(record, workers[1], 6, [(3, TOO_LONG), (40, NOT_UTF8), (120, TOO_LONG)])
        bad = self.ledger.claim(workers[1], QUEUES)
        self.ledger.fail(bad, "part-00000076.parquet is not what shard 76 must hold: it is not a whole Parquet file")
        lost = self.ledger.claim(workers[1], QUEUES)
        self.ledger.lose(lost, "the engine went away: CUDA error: an illegal memory access was encountered")
        self.commit(record, workers[0], 64)
        self.commit(record, workers[1], 4, [(3, TOO_LONG)])
        for worker in workers * 2:
            claim = self.ledger.claim(worker, QUEUES)
            told = LeaseProgress(rows=120, prompt_tokens=25_000, output_tokens=4_900, computed_prompt_tokens=41_000,
                                 computed_output_tokens=7_100, is_computing=True, row_output=41.0)  # fmt: skip
            self.ledger.beat(claim, told)
        self.past(record.job, 2400, rows_per_s=19.0, output_per_s=790.0)
        for end in self.ledger.shards.ends(record.job)[-10:]:
            errors = {3: TOO_LONG} if end.error_rows else {}
            self.write_part(record, end.shard, errors)
        for shard in range(70, 76):
            self.write_part(record, shard, {3: TOO_LONG, 40: NOT_UTF8, 120: TOO_LONG})
        return record

    def failed(self, name: str = "reviews") -> JobRecord:
        """A job that ended with failed shards."""
        record = self.submit(name, age_s=9000, shards=40)
        self.commit(record, "w", 36)
        reason = "the input file /data/tickets/2026-04.parquet changed after the job was submitted; submit a new job"
        for _ in range(4):
            self.ledger.fail(self.ledger.claim("w", QUEUES), reason)
        self.past(record.job, 1200, rows_per_s=8.0, output_per_s=300.0)
        self.ledger.set_state(record.job, JobState.FAILED)
        return record

    def done(self, name: str = "summaries", age_s: float = 90_000) -> JobRecord:
        """A job that is done, with all its parts."""
        record = self.submit(name, age_s=age_s, shards=12, rows=120)
        self.commit(record, "gpu-node-1-90-0-11aa22", 12)
        for shard in range(12):
            self.write_part(record, shard)
        self.past(record.job, 700, rows_per_s=2.05, output_per_s=85.0)
        self.ledger.set_state(record.job, JobState.DONE)
        return record

    def damaged(self, name: str = "embeddings") -> JobRecord:
        """A job whose record in the broker cannot be read."""
        record = self.submit(name, age_s=500, shards=4)
        # nobody is to be given a shard of it
        self.ledger.set_state(record.job, JobState.PAUSED)
        self.client.hset(self.keys.of_job(record.job, "ctl"), "rows", "not a number")
        return record

    def many(self, count: int) -> None:
        """So many jobs more, most of them done; only what a list shows of them."""
        models = ("Qwen3-8B", "Llama-3.1-8B-Instruct", "bge-base-en-v1.5", "SmolLM2-135M-Instruct")
        states = ("done",) * 17 + ("failed", "cancelled", "cancelled")
        now = int(time.time() * 1000)
        with self.client.pipeline(transaction=False) as pipe:
            for number in range(count):
                job, created = f"nightly-{number:05d}-{number * 7919 % 65536:04x}", now - 86_400_000 - number * 610_000
                state = states[number % len(states)]
                rows = 1000 + number * 37 % 90_000
                done = rows if state == "done" else rows // 3
                pipe.hset(self.keys.of_job(job, "ctl"), mapping={
                    "state": state, "task": "generate", "model": f"/models/{models[number % 4]}", "queue": "default",
                    "output": f"s3://results/nightly/{number:05d}", "priority": 5, "shards": 10,
                    "done": 10 if state == "done" else 3, "rows": rows, "rows_done": done, "error_rows": number % 3,
                    "prompt_tokens": rows * 200, "output_tokens": rows * 40, "retries": 0, "created": created,
                    "ended": created + 600_000, "active_ms": 540_000, "worker_ms": 540_000,
                })  # fmt: skip
                pipe.zadd(self.keys.jobs, {job: created})
            pipe.execute()


@contextmanager
def alive(world: World) -> Iterator[None]:
    """The workers of the world give their signs of life, however slow the machine is."""
    ended = threading.Event()

    def announce() -> None:
        while not ended.wait(3.0):
            for name in WORKERS:
                world.worker(name)

    thread = threading.Thread(target=announce)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _is_text(values: list[Any]) -> bool:
    return not any(isinstance(value, int) for value in values)
