"""The Celery worker process of one device, started by the node. It never sees CUDA.

`python -m parquetry.tasks.node.celery_main`
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

import pyarrow as pa
from celery.apps import worker as celery_worker
from celery.exceptions import SecurityWarning
from celery.signals import setup_logging, worker_process_init, worker_process_shutdown

from parquetry.schemas.log_lines import log_to
from parquetry.schemas.settings import settings
from parquetry.tasks.broker.permit_transport import use_permit_transport
from parquetry.tasks.keys import celery_queue
from parquetry.tasks.node.app import make_app
from parquetry.tasks.node.repeated_lines import hold_back_repetitions
from parquetry.tasks.node.serve import use_config
from parquetry.tasks.shard.worker_config import WorkerConfig
from parquetry.tasks.tracing.spans import flush
from parquetry.workers.process.leash import die_with_parent

LOG_FORMAT = "%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s"

#: say of every permit, and of a start and an end, what our own lines tell better
CHATTY = (
    *("celery.worker.strategy", "celery.app.trace"),
    *("celery.worker.consumer.connection", "celery.apps.worker"),
)


def main(arguments: list[str] | None = None) -> int:
    """Serve permits until SIGTERM, then end with the shards that run."""
    die_with_parent()
    # its messages are JSON, so that root runs no more than another user's would
    warnings.simplefilter("ignore", SecurityWarning)
    options = _parse(arguments)
    config = _config(options)
    use_config(config)
    # before Celery says its first word, which may be a warning of several lines
    log_to(sys.stderr, LOG_FORMAT)
    _prepare_children(os.getpid(), options.niceness)
    celery_worker.safe_say = _silence
    use_permit_transport()
    app = make_app(config.url, config.env, config.queues)
    app.set_current()
    # at its first array Arrow imports pandas: here once, not in each of the children
    pa.array([])
    app.worker_main(_worker_arguments(config))
    return 0


def _silence(*_: object) -> None:
    """In place of what Celery prints past every log, which may be one of JSON lines."""


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m parquetry.tasks.node.celery_main", description=__doc__)
    parser.add_argument("--worker", required=True)
    parser.add_argument("--queues", required=True)
    parser.add_argument("--shards-in-flight", type=int, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--niceness", type=int, default=0, help="of the processes that run shards")
    options = parser.parse_args(arguments)
    # not an argument: the URL may hold a password, which a command line would show to everybody on the machine
    options.broker_url = settings().broker_url
    if options.broker_url is None:
        parser.error("PARQUETRY_BROKER_URL is not set")
    return options


def _config(options: argparse.Namespace) -> WorkerConfig:
    return WorkerConfig(
        worker=options.worker,
        url=options.broker_url,
        env=settings().env,
        queues=tuple(options.queues.split(",")),
        shards_in_flight=options.shards_in_flight,
        socket=options.socket,
        beat_s=settings().beat_interval,
    )


def _prepare_children(pid: int, niceness: int) -> None:
    @worker_process_init.connect(weak=False)
    def leash(**_: object) -> None:
        die_with_parent(pid)
        os.nice(niceness)

    @worker_process_shutdown.connect(weak=False)
    def send_last_spans(**_: object) -> None:
        flush()

    @setup_logging.connect(weak=False)
    def leave_the_log_alone(**_: object) -> None:
        hold_back_repetitions()
        for chatty in CHATTY:
            logging.getLogger(chatty).setLevel(logging.WARNING)


def _worker_arguments(config: WorkerConfig) -> list[str]:
    return [
        # without Celery's banner
        "--quiet",
        "worker",
        *("--pool", "prefork", "--concurrency", str(config.shards_in_flight)),
        *("--queues", ",".join(map(celery_queue, config.queues))),
        *("--hostname", config.worker, "--loglevel", settings().log_level),
        *("--without-mingle", "--without-gossip"),
    ]


if __name__ == "__main__":
    sys.exit(main())
