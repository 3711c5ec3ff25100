"""The Celery app: its messages only wake workers, and may be lost or doubled."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Queue

from parquetry.tasks.broker.connection import kombu_url, transport_options
from parquetry.tasks.keys import celery_queue
from parquetry.tasks.permits import PUBLISH_RETRIES

#: only JSON: a pickled message would be code from whoever can write to the broker
SERIALIZATION = {
    "task_serializer": "json",
    "result_serializer": "json",
    "event_serializer": "json",
    "accept_content": ["json"],
    "result_accept_content": ["json"],
}

DELIVERY = {
    # recovery belongs to the lease: a late ack would run a shard twice after one connection reset
    "task_acks_late": False,
    "task_ignore_result": True,
    "task_store_errors_even_if_ignored": False,
    "task_retry_on_worker_lost": False,
    "task_publish_retry": True,
    "task_publish_retry_policy": {"max_retries": PUBLISH_RETRIES, "interval_start": 0.1, "interval_max": 1.0},
    "task_send_sent_event": False,
    "task_create_missing_queues": True,
}

WORKER = {
    "worker_pool": "prefork",
    # a permit is fetched when a child is free, so none is hoarded behind a long shard
    "worker_disable_prefetch": True,
    "worker_prefetch_multiplier": 1,
    # nobody asks through it, and whoever could write to its channel could stop the worker
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "worker_enable_soft_shutdown_on_idle": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_proc_alive_timeout": 60.0,
    "worker_hijack_root_logger": False,
}

CONNECTION = {
    "broker_connection_retry_on_startup": True,
    # try for ever: without it the worker ends after a hundred tries
    "broker_connection_max_retries": None,
    "broker_pool_acquire_timeout": 30,
    "broker_connection_timeout": 5.0,
}


def make_app(url: str, env: str, queues: tuple[str, ...] = ("default",)) -> Celery:
    """The app of one environment, listening to the permits of `queues`."""
    app = Celery("parquetry", broker=kombu_url(url), set_as_current=False, include=["parquetry.tasks.node.serve"])
    app.conf.update(**SERIALIZATION, **DELIVERY, **WORKER, **CONNECTION, **_of_node(url, env, queues))
    return app


def _of_node(url: str, env: str, queues: tuple[str, ...]) -> dict[str, Any]:
    return {
        "broker_transport_options": transport_options(url, env),
        "visibility_timeout": transport_options(url, env)["visibility_timeout"],
        "task_queues": [Queue(celery_queue(queue)) for queue in queues],
        "task_default_queue": celery_queue(queues[0]),
    }
