"""A device of a worker without its node: the supervisor of engines that echo, and what a shard runner is told of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from parquetry.schemas.settings import settings
from parquetry.tasks.shard.worker_config import WorkerConfig
from parquetry.workers.process.supervisor import EngineSupervisor
from tests.integration.jobs_on_disk import ENGINE


@contextmanager
def echo_device(folder: Path, **environment: str) -> Iterator[EngineSupervisor]:
    """The device while it serves; the environment is that of its engines, and ours as well."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"PARQUETRY_ENGINE_FACTORY": ENGINE, **environment}.items():
            patch.setenv(name, value)
        settings.cache_clear()
        supervisor = EngineSupervisor("cpu", folder)
        supervisor.start()
        yield supervisor
        supervisor.stop()
    settings.cache_clear()


def worker_on(supervisor: EngineSupervisor, url: str, env: str) -> WorkerConfig:
    """The worker `w` of queue `default`, which tells of its shards twenty times a second."""
    return WorkerConfig(
        worker="w",
        url=url,
        env=env,
        queues=("default",),
        shards_in_flight=1,
        socket=supervisor.socket,
        beat_s=0.05,
    )
