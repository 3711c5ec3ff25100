import io
import json
import logging

import pytest

from parquetry.schemas import log_lines
from parquetry.schemas.log_lines import about, log_to
from parquetry.schemas.settings import load_settings


@pytest.fixture
def written(monkeypatch):
    """What a process logs in JSON."""
    monkeypatch.setattr(log_lines, "settings", lambda: load_settings(log_format="json"))
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    root.handlers.clear()
    stream = io.StringIO()
    log_to(stream)
    yield stream
    logging.captureWarnings(False)
    root.handlers[:] = before


def test_a_line_is_json_and_says_what_the_process_works_on(written):
    log = logging.getLogger("parquetry.test")
    with about(job="j", shard=3, attempt=17):
        log.warning("two\nlines and %s", "more")
    log.warning("after")
    first, second = map(json.loads, written.getvalue().splitlines())
    assert (first["job"], first["shard"], first["attempt"]) == ("j", 3, 17)
    assert (first["level"], first["logger"], first["message"]) == ("WARNING", "parquetry.test", "two\nlines and more")
    assert first["time"].endswith("Z")
    assert "job" not in second


def test_a_traceback_stays_on_its_line(written):
    try:
        raise ValueError("odd")
    except ValueError:
        logging.getLogger("parquetry.test").exception("it failed")
    (line,) = written.getvalue().splitlines()
    assert "ValueError: odd" in json.loads(line)["traceback"]
