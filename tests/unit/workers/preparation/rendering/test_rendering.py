"""Templates are rendered in a process with limits: what goes too far is one row's error, and takes nothing with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parquetry.schemas.errors import RowError, TemplateError
from parquetry.workers.preparation.rendering.answers import Failed, Rendered, read_answers
from parquetry.workers.preparation.rendering.renderer import RenderingLostError, definition_of, renderer
from parquetry.workers.preparation.template import Template
from parquetry.workers.process.wire import Frame, WireError

PLAIN = definition_of("prompt", source="{{ text }}!")
#: runs on in C where no step is counted, for rows that say so
SLOW = definition_of("prompt", source="{{ ('ab' * n * 1000)|unique|list|length }}")
LARGE = definition_of("prompt", source="{% set a = [0] * n %}{% set b = [0] * n %}{{ a|length }}")


def child_pid() -> int:
    assert renderer._child is not None
    return renderer._child.pid


def texts(found: list[Rendered | Failed]) -> list[str | None]:
    return [answer.text if isinstance(answer, Rendered) else None for answer in found]


def test_many_rows_keep_their_order():
    rows = [{"text": f"é{number}"} for number in range(5000)]
    assert texts(renderer.render(PLAIN, rows)) == [f"é{number}!" for number in range(5000)]


def test_a_row_that_runs_too_long_takes_no_other_with_it():
    renderer.render(PLAIN, [{"text": "x"}])
    before = child_pid()

    found = renderer.render(SLOW, [{"n": 1}, {"n": 2}, {"n": 8000}, {"n": 3}])

    assert texts(found) == ["2", "2", None, "2"]
    assert found[2] == Failed(
        "template", "the template cannot be rendered: it takes more processor time than a template may"
    )
    assert child_pid() != before


def test_memory_is_bounded():
    found = renderer.render(LARGE, [{"n": 3}, {"n": 16_000_000}, {"n": 4}])
    assert texts(found)[::2] == ["3", "4"]
    assert isinstance(found[1], Failed) and "memory" in found[1].reason


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ text }}" * 90_000, "more than 10000 expressions"),
        ("x" * 1_000_001, "longer than 1000000 characters"),
        ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, "nested too deeply"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply"),
        ("{% if 1 %}" * 150 + "{% endif %}" * 150, "too many levels of indentation"),
        ("{{ " + "+".join(["text"] * 5_000) + " }}", "nested too deeply"),
        ("{{ [" + "[1]," * 200_000 + "] }}", "cannot be parsed"),
    ],
    ids=["tags", "length", "blocks", "parentheses", "indentation", "sum", "list"],
)
def test_a_template_that_cannot_be_parsed_within_limits_is_refused(source, said):
    with pytest.raises(TemplateError, match=said):
        Template.parse(source)


def test_a_stopped_process_is_killed_after_a_while():
    renderer.render(PLAIN, [{"text": "x"}])
    child = renderer._child
    assert child is not None
    child._connection.settimeout(0.1)
    os.kill(child.pid, signal.SIGSTOP)

    with pytest.raises(RenderingLostError, match="no answer"):
        renderer.render(PLAIN, [{"text": "x"}])

    assert texts(renderer.render(PLAIN, [{"text": "x"}])) == ["x!"]


def test_a_process_that_someone_kills_is_no_fault_of_a_row():
    renderer.render(PLAIN, [{"text": "x"}])
    os.kill(child_pid(), signal.SIGKILL)

    with pytest.raises(RenderingLostError, match="SIGKILL"):
        renderer.render(PLAIN, [{"text": "x"}])

    assert texts(renderer.render(PLAIN, [{"text": "x"}])) == ["x!"]


def test_filters_work_where_no_file_can_be_opened():
    source = "{{ '<b>x</b>'|striptags }} {{ {'a': 1}|pprint }} {{ 'a b'|wordwrap(1) }} {{ 'http://x.y'|urlize }}"
    source += "{{ 'é'.encode('latin-1')|length }}{{ [2, 1]|sort }}{{ {'x': 'é'}|tojson }}{{ 3|filesizeformat }}"
    assert Template.parse(source).render({}).startswith("x {'a': 1} a\nb http")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_has_no_secrets_and_can_open_nothing(monkeypatch):
    monkeypatch.setenv("PARQUETRY_BROKER_URL", "redis://:planted@localhost:6379")
    renderer.close()
    renderer.render(PLAIN, [{"text": "x"}])

    folder = Path("/proc") / str(child_pid())

    assert b"planted" not in (folder / "environ").read_bytes()
    limits = (folder / "limits").read_text()
    assert [line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files")] == [["0", "0"]]


def test_the_process_loads_neither_arrow_nor_settings():
    code = "import sys, parquetry.workers.preparation.rendering.program; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"pyarrow", "numpy", "pydantic", "celery", "torch"} & set(loaded.split())


def test_the_process_ends_with_its_parent():
    code = (
        "import time; from parquetry.workers.preparation.rendering.renderer import definition_of, renderer\n"
        "renderer.facts(definition_of('prompt', source='x')); print(renderer._child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists() or _is_zombie(pid):
            return
        time.sleep(0.05)
    raise AssertionError("the rendering process outlives its parent")


def _is_zombie(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


@pytest.mark.parametrize(
    "header",
    [{}, {"ends": [1], "failed": {"9": ["row", "x"]}, "images": {}}, {"ends": [1], "failed": {"0": 1}, "images": {}}],
)
def test_answers_are_not_taken_on_trust(header):
    with pytest.raises(WireError):
        read_answers(Frame(header, b"x"))


def test_a_prompt_that_is_no_text_is_a_row_error():
    with pytest.raises(RowError, match="not valid UTF-8"):
        Template.parse("{{ '%c' % 55296 }}").render({})
