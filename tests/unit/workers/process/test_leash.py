"""A leashed process does not outlive its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from parquetry.workers.process.leash import leashed

PARENT = """
import subprocess, sys, time
from parquetry.workers.process.leash import leashed
child = subprocess.Popen(leashed([sys.executable, "-c", "import time; time.sleep(60)"]))
print(child.pid, flush=True)
time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_child_dies_however_the_parent_does(number):
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert wait_until(lambda: is_alive(child))
        parent.send_signal(number)
        parent.wait()

        assert wait_until(lambda: not is_alive(child))


def test_a_child_whose_parent_is_already_gone_ends_at_once():
    command = [sys.executable, "-m", "parquetry.workers.process.leash", "--parent", str(os.getpid() + 1), "true"]

    assert subprocess.run(command, check=False, timeout=20).returncode == 1


def test_the_exit_code_and_arguments_are_the_commands():
    command = leashed([sys.executable, "-c", "import sys; sys.exit(len(sys.argv[1]))", "--abc"])

    assert subprocess.run(command, check=False, timeout=20).returncode == 5
