"""The app of this environment where Celery's own commands look for one: `celery -A parquetry.tasks.node.celery_app`."""

from __future__ import annotations

from celery import Celery

from parquetry.schemas.errors import WrongSettingError
from parquetry.schemas.settings import settings
from parquetry.tasks.node.app import make_app


class NoBrokerSetError(WrongSettingError):
    """Celery's commands need a broker: set PARQUETRY_BROKER_URL."""


def _app() -> Celery:
    url = settings().broker_url
    if url is None:
        raise NoBrokerSetError()
    return make_app(url, settings().env)


app = _app()
