"""The same job as a plain Celery app would do it, under the same faults: what the figures are compared with."""
