"""Permits: tiny Celery messages that wake a worker. Written to the broker by task name, without Celery."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from kombu import Connection, Producer
from kombu.exceptions import OperationalError

from parquetry.schemas.permit import PERMIT_TASK, Permit
from parquetry.schemas.settings import settings
from parquetry.tasks.broker.connection import kombu_url, no_connection, translated, transport_options
from parquetry.tasks.keys import celery_queue
from parquetry.tasks.ledger.ledger import Ledger

#: permits kept in the broker for each shard in flight: one to take now, one for when it is done
PERMITS_PER_SHARD = 2
PUBLISH_RETRIES = 3


def issue(url: str, queue: str, count: int, *, env: str | None = None, issued_by: str = "submit") -> None:
    """Publish permits. A lost one is replaced soon, one too many claims nothing. Raises BrokerUnreachableError."""
    permit = Permit(queue=queue, issued_by=issued_by)
    with _producer(url, env or settings().env) as producer:
        for _ in range(count):
            _publish(producer, permit)


def _publish(producer: Producer, permit: Permit) -> None:
    task_id = str(uuid.uuid4())
    producer.publish(
        [[permit.encode()], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}],
        routing_key=celery_queue(permit.queue),
        serializer="json",
        headers={"lang": "py", "task": PERMIT_TASK, "id": task_id, "root_id": task_id, "parent_id": None},
        correlation_id=task_id,
        delivery_mode=2,
        retry=True,
        retry_policy={"max_retries": PUBLISH_RETRIES, "interval_start": 0.1, "interval_max": 1.0},
    )


@contextmanager
def _producer(url: str, env: str) -> Iterator[Producer]:
    connection = Connection(kombu_url(url), transport_options=transport_options(url, env))
    try:
        with translated(url), connection, connection.Producer() as producer:
            yield producer
    except OperationalError as error:
        raise no_connection(url, error) from None


def wanted(*, pending: int, in_flight: int) -> int:
    """How many permits a queue should have: for its shards in flight, at least one, and no more than are pending."""
    return min(pending, PERMITS_PER_SHARD * max(in_flight, 1))


def top_up(ledger: Ledger, url: str, queue: str, *, issued_by: str) -> int:
    """Publish the permits a queue lacks; how many."""
    target = wanted(pending=ledger.pending(queue), in_flight=ledger.roster.shards_in_flight(queue))
    count = target - ledger.permits(queue)
    if count > 0:
        issue(url, queue, count, env=ledger.env, issued_by=issued_by)
    return max(count, 0)
