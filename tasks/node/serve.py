"""The Celery task: a permit comes in, a shard is claimed and run, the next permit goes out."""

from __future__ import annotations

import logging
import time
from functools import lru_cache

from celery import shared_task

from parquetry.schemas.errors import ParquetryError, PermitFormatError
from parquetry.schemas.permit import PERMIT_TASK, Permit
from parquetry.tasks.broker.connection import connect
from parquetry.tasks.failpoints import failpoint
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.node.noted_claims import noted
from parquetry.tasks.permits import top_up
from parquetry.tasks.shard.outcome import run_claim
from parquetry.tasks.shard.worker_config import WorkerConfig

log = logging.getLogger(__name__)
_config: WorkerConfig | None = None


def use_config(config: WorkerConfig) -> None:
    """Set which worker this process, and the children it will fork, belong to."""
    global _config
    _config = config


@lru_cache(maxsize=1)
def _ledger(url: str, env: str) -> Ledger:
    # opened in the child that uses it: a connection must not be shared across a fork
    return Ledger(connect(url), env)


@shared_task(name=PERMIT_TASK)
def serve_permit(message: object) -> None:
    """Never raises: a permit is worth nothing once it is taken, and the reconciler replaces it."""
    if _config is None:
        raise RuntimeError("this process serves no device")
    try:
        serve_shard(Permit.decode(message), _config)
    except PermitFormatError as error:
        log.error("%s", error)
    except ParquetryError as error:
        log.warning("a permit was not served: %s", error)


def serve_shard(permit: Permit, config: WorkerConfig) -> bool:
    """Claim and run one shard; False when there was none."""
    ledger = _ledger(config.url, config.env)
    asked_ns = time.time_ns()
    claim = ledger.claim(config.worker, (permit.queue,))
    if claim is None:
        return False
    with noted(config.claims, claim):
        failpoint("permit")
        _issue_permits(ledger, config, permit.queue)
        run_claim(ledger, claim, config, asked_ns)
    return True


def _issue_permits(ledger: Ledger, config: WorkerConfig, queue: str) -> None:
    """Top the permits up for the shards that are left; a failure must not cost the shard that we hold."""
    try:
        top_up(ledger, config.url, queue, issued_by="worker")
    except ParquetryError as error:
        log.warning("no permit was issued: %s", error)
