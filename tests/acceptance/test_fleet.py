"""submit, worker and the commands that steer, as separate processes over a server on TCP."""

import json
import signal
import urllib.request

import pytest
import redis

from tests.acceptance.commands import wait_until
from tests.acceptance.tables import assert_every_row_once, read_parts, write_file

NUM_ROWS = 60
DETERMINISTIC = ["id", "row", "output", "finish_reason", "prompt_tokens", "output_tokens", "error"]


@pytest.fixture
def fleet(shell, broker_url, generator):
    """A shell with a broker, and a job spec in it."""
    write_file(shell.folder / "in.parquet", NUM_ROWS)
    shell.spec(
        "job",
        task="generate",
        input={"path": "in.parquet"},
        output={"path": "out", "keep": ["id"]},
        model={"id": str(generator)},
        prompt={"template": "Say: {{ text }}"},
        generation={"max_new_tokens": 8},
        shards={"rows": 7},
    )
    return shell.with_broker(broker_url)


def submit(fleet):
    ended = fleet.run("submit", "job.yaml")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("\n") == 1
    # this broker keeps no append-only file
    assert ended.stderr.startswith("parquetry: warning: The broker redis://127.0.0.1")
    return ended.stdout.split()[-1]


def answer(fleet, *arguments):
    ended = fleet.run(*arguments, "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_submit_and_worker_give_what_run_gives(fleet, shell, broker_url):
    job = submit(fleet)
    with fleet.start("worker", "--gpus", "none") as worker:
        watched = fleet.run("watch", job)
        assert watched.returncode == 0, watched.stderr
        assert watched.stderr.startswith(f"Job {job}\nOutput: {fleet.folder / 'out'}\n")
        # the same summary as `run` has
        assert f"Job {job} is done: {NUM_ROWS} of {NUM_ROWS} rows" in watched.stdout
        assert "Read it with one of:" in watched.stdout
        assert len(answer(fleet, "jobs")["workers"]) == 1
        assert fleet.run("doctor", "--worker").returncode == 0
        worker.send_signal(signal.SIGTERM)
        assert worker.wait() == 0
    theirs = read_parts(fleet.folder / "out")
    assert_every_row_once(theirs, NUM_ROWS)

    assert shell.run("run", "job.yaml", "--set", "output.path=ours").returncode == 0
    ours = read_parts(shell.folder / "ours")
    assert ours.select(DETERMINISTIC).equals(theirs.select(DETERMINISTIC))

    with redis.Redis.from_url(broker_url) as client:
        client.flushall()
    assert answer(fleet, "jobs")["jobs"] == []
    recovered = answer(fleet, "recover", "out")
    assert (recovered["job"], recovered["state"], recovered["rows_done"]) == (job, "done", NUM_ROWS)
    # rates are known to a broker that never saw the job run
    assert recovered["progress"]["rows_per_s"] > 0
    assert 0 < recovered["progress"]["computing_s"] < recovered["active_seconds"] + 1
    assert recovered["phase"]["phase"] == "done"


def test_steering_a_job_that_nobody_works_on(fleet):
    job = submit(fleet)
    assert submit(fleet) == job
    assert answer(fleet, "submit", "job.yaml")["created"] is False
    assert answer(fleet, "status", job)["shards_pending"] == 9
    assert answer(fleet, "pause", job)["state"] == "paused"
    assert answer(fleet, "resume", job)["state"] == "running"
    assert answer(fleet, "cancel", job)["state"] == "cancelled"
    assert [found["job"] for found in answer(fleet, "jobs")["jobs"]] == [job]
    assert fleet.run("watch", job).returncode == 1


def test_refusals_of_a_fleet(fleet):
    job = submit(fleet)
    unknown = fleet.run("status", f"{job}0")
    assert unknown.returncode == 2
    assert f"did you mean '{job}'" in unknown.stderr
    taken = fleet.run("submit", "job.yaml", "--set", "generation.seed=1")
    assert taken.returncode == 2
    assert job in taken.stderr
    assert fleet.run("doctor", "--worker").returncode == 3


def test_the_dashboard(fleet):
    job = submit(fleet)
    with fleet.start("dashboard", "--port", "0") as page:
        log = next(fleet.folder.glob("dashboard-*.log"))
        wait_until(lambda: log.read_text().endswith("\n") or page.poll() is not None, "the dashboard")
        address = log.read_text().split()[-1]
        wait_until(lambda: is_up(address), "an answer")
        with urllib.request.urlopen(f"{address}/api/jobs") as reply:
            assert [found["job"] for found in json.load(reply)["jobs"]] == [job]
        page.send_signal(signal.SIGINT)
        page.wait()
    refused = fleet.run("dashboard", "--host", "0.0.0.0")
    # no other try would end otherwise
    assert refused.returncode == 2
    assert "PARQUETRY_DASHBOARD_TOKEN" in refused.stderr


def is_up(address):
    try:
        with urllib.request.urlopen(f"{address}/healthz") as reply:
            return reply.status == 200
    except OSError:
        return False
