"""A Celery app as one writes it at home: one message a shard, read the rows, work, write a file.

Environment: PLAIN_BROKER, PLAIN_LATE (1: acks_late), PLAIN_VISIBILITY seconds, PLAIN_TABLE, PLAIN_OUTPUT,
PLAIN_SHARD_ROWS and CHAOS_MS_PER_ROW.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from celery import Celery

app = Celery("plain", broker=os.environ.get("PLAIN_BROKER"))
app.conf.task_ignore_result = True
app.conf.broker_connection_retry_on_startup = True
app.conf.broker_transport_options = {"visibility_timeout": float(os.environ.get("PLAIN_VISIBILITY", "3600"))}
if os.environ.get("PLAIN_LATE") == "1":
    app.conf.task_acks_late = True
    app.conf.worker_prefetch_multiplier = 1
if "PLAIN_VISIBILITY" in os.environ:
    # without these two a message of a dead worker waits for about 100 s, however short its visibility timeout
    app.conf.broker_transport_options |= {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}


@app.task
def infer(shard: int) -> None:
    """Echo one shard into a file of its own. The name is unique, as those of most Parquet writers are."""
    rows = int(os.environ["PLAIN_SHARD_ROWS"])
    output = Path(os.environ["PLAIN_OUTPUT"])
    (output / f"start-{shard}-{uuid.uuid4().hex}").touch()
    table = pq.read_table(os.environ["PLAIN_TABLE"]).slice(shard * rows, rows)
    _work(table, output)
    result = pa.table({"id": table.column("id"), "output": table.column("text")})
    name = f"part-{shard:05d}-{uuid.uuid4().hex}.parquet"
    pq.write_table(result, output / f".{name}")
    (output / f".{name}").rename(output / name)


def _work(table: pa.Table, output: Path) -> None:
    price_s = float(os.environ["CHAOS_MS_PER_ROW"]) / 1000
    for row, text in zip(table.column("id").to_pylist(), table.column("text").to_pylist(), strict=True):
        if text.startswith("KILL") and _first(output / f"struck-{row}"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(price_s)


def _first(mark: Path) -> bool:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
