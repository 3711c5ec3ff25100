"""Failpoints: off by default, struck as often as asked in all processes together."""

from __future__ import annotations

import subprocess
import sys

import pytest

from parquetry.schemas.settings import load_settings
from parquetry.tasks import failpoints
from parquetry.tasks.failpoints import FailpointError, FailpointSyntaxError, failpoint, parse


@pytest.fixture
def armed(monkeypatch, tmp_path):
    def arm(text: str) -> None:
        config = load_settings(failpoints=text, state_dir=tmp_path)
        monkeypatch.setattr(failpoints, "settings", lambda: config)

    return arm


def test_unset_does_nothing(armed):
    armed("")
    failpoint("publish")


def test_raises_as_often_as_asked(armed):
    armed("publish:raise:2,commit:raise")
    for _ in range(2):
        with pytest.raises(FailpointError, match="publish"):
            failpoint("publish")
    failpoint("publish")
    failpoint("other")
    with pytest.raises(FailpointError):
        failpoint("commit")


@pytest.mark.parametrize("text", ["publish", "publish:burn", "publish:kill:x", "publish:kill:-1"])
def test_syntax_is_checked(text: str):
    with pytest.raises(FailpointSyntaxError, match="name:kill"):
        parse(text)


def test_kill_strikes_one_process_and_spares_its_successor(tmp_path):
    environment = {
        "PARQUETRY_FAILPOINTS": "x:kill",
        "PARQUETRY_STATE_DIR": str(tmp_path),
        "PYTHONPATH": ":".join(sys.path),
    }
    command = [sys.executable, "-c", "from parquetry.tasks.failpoints import failpoint; failpoint('x')"]
    assert [subprocess.run(command, env=environment, check=False).returncode for _ in range(2)] == [-9, 0]
