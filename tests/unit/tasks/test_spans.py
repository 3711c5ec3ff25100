"""Traces that nobody asked for need no package."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
sys.modules["opentelemetry"] = None
from parquetry.tasks.tracing.spans import SpanIds, flush, tell_named
tell_named("job", SpanIds.of("a job"), 1, 2, {}, of=SpanIds.of("another"))
flush()
"""


def test_a_job_ends_where_the_package_for_traces_is_missing() -> None:
    ended = subprocess.run([sys.executable, "-P", "-c", CODE], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
