"""What the keeper starts lives as long as this process, whichever thread has asked for it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from parquetry.local.keeper import Keeper
from parquetry.workers.process.leash import leashed


def started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(leashed([sys.executable, "-c", "print(flush=True); input()"]), stdin=-1, stdout=-1)


def test_a_process_outlives_the_thread_that_asked_for_it() -> None:
    keeper, found = Keeper(), []
    thread = threading.Thread(target=lambda: found.append(keeper.call(started)))
    thread.start()
    thread.join()
    process = found[0]
    process.stdout.readline()
    time.sleep(0.1)
    assert process.poll() is None
    keeper.end()
    # its leash ends with the keeper
    assert process.wait(timeout=60) == -9
    process.stdin.close()
    process.stdout.close()


def test_an_error_reaches_whoever_has_called() -> None:
    keeper = Keeper()
    with pytest.raises(ZeroDivisionError):
        keeper.call(lambda: 1 // 0)
    assert keeper.call(threading.get_ident) == keeper.call(threading.get_ident) != threading.get_ident()
    keeper.end()
