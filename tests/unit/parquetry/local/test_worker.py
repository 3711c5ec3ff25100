import sys
import time
from pathlib import Path

import pytest

from parquetry.local import worker as module
from parquetry.local.worker import (
    MAX_DEATHS,
    LocalWorker,
    StateFolderError,
    WorkerCommand,
    WorkerDiedError,
    make_state_folder,
)
from parquetry.workers.process import start as child


class Script(WorkerCommand):
    """Runs a line of Python in place of a worker."""

    def arguments(self):
        return [sys.executable, "-c", self.queue]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(module, "RESTART_SECONDS", 0.0)


def script(text):
    return Script(url="redis+socket:///none", queue=text)


def wait_for_end(worker):
    worker.process.wait(20)


def test_the_command_names_queue_and_engines():
    command = WorkerCommand(url="redis://h", queue="q", cpu_engines=2).arguments()
    assert command[-4:] == ["--queues", "q", "--cpu-engines", "2"]
    assert "redis://h" not in command


def test_a_worker_that_keeps_dying_ends_with_the_tail_of_its_log(tmp_path):
    log = tmp_path / "logs" / "w.log"
    with LocalWorker(script("import sys; print('no such luck'); sys.exit(7)"), log) as worker:
        for _ in range(MAX_DEATHS - 1):
            wait_for_end(worker)
            worker.revive(rows_done=0)
        wait_for_end(worker)
        with pytest.raises(WorkerDiedError, match="no such luck") as caught:
            worker.revive(rows_done=0)
    assert caught.value.exit_code == 3
    assert "exit code 7" in str(caught.value)
    assert log.read_text().count("no such luck") == MAX_DEATHS


def test_progress_between_deaths_is_forgiven(tmp_path):
    with LocalWorker(script("pass"), tmp_path / "w.log") as worker:
        for rows in range(2 * MAX_DEATHS):
            wait_for_end(worker)
            worker.revive(rows_done=rows)


def test_leaving_the_context_stops_the_worker(tmp_path):
    with LocalWorker(script("import time; time.sleep(600)"), tmp_path / "w.log") as worker:
        assert worker.process.poll() is None
        worker.revive(rows_done=0)
    assert worker.process.returncode is not None


def test_the_broker_url_travels_in_the_environment(tmp_path):
    text = "import os; print(os.environ['PARQUETRY_BROKER_URL'])"
    with LocalWorker(script(text), tmp_path / "w.log") as worker:
        wait_for_end(worker)
    assert child.tail(tmp_path / "w.log", 5) == "redis+socket:///none"


def test_a_process_that_ignores_sigterm_is_killed(tmp_path):
    text = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
    log = tmp_path / "log"
    with log.open("wb") as sink:
        process = child.start([sys.executable, "-c", text], sink)
    while "ready" not in log.read_text():
        time.sleep(0.01)
    child.stop(process, grace_s=0.2)
    assert process.returncode == -9


def test_an_idle_process_is_not_waited_for(tmp_path):
    text = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    with (tmp_path / "log").open("wb") as sink:
        process = child.start([sys.executable, "-c", text], sink)
    child.stop(process, grace_s=600, is_idle=lambda: True)
    assert process.returncode is not None


def test_the_tail_of_no_file_is_empty(tmp_path):
    assert child.tail(tmp_path / "none", 3) == ""


def test_a_state_folder_that_cannot_be_written_is_told_with_what_to_do(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for folder in (Path("/proc/none"), file / "logs"):
        with pytest.raises(StateFolderError, match="PARQUETRY_STATE_DIR") as caught:
            make_state_folder(folder)
        assert caught.value.exit_code == 3
