"""The app of this environment where Celery's own commands look for one: `celery -A parquetry.tasks.node.celery_app`."""

from __future__ import annotations

from parquetry.schemas.settings import settings
from parquetry.tasks.node.app import make_app

#: without PARQUETRY_BROKER_URL of a server on this machine
app = make_app(settings().broker_url or "redis://localhost:6379/0", settings().env)
