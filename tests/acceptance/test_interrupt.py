"""A run that is killed or interrupted leaves no process, and the same command goes on from where it was."""

import json
import signal

from tests.acceptance.commands import wait_until
from tests.acceptance.tables import assert_every_row_once, read_parts, write_file

NUM_ROWS = 480
SHARD_ROWS = 12


def num_parts(shell):
    return len(list((shell.folder / "out").glob("part-*.parquet")))


def run_until_more_parts(shell, process):
    """Wait until this process has committed a part of its own."""
    before = num_parts(shell)
    wait_until(lambda: num_parts(shell) > before or process.poll() is not None, "a part")
    assert process.poll() is None, "the job is too short to be interrupted"


def test_kill_then_interrupt_then_the_end(shell, generator):
    write_file(shell.folder / "in.parquet", NUM_ROWS)
    shell.spec(
        "job",
        task="generate",
        input={"path": "in.parquet"},
        output={"path": "out", "keep": ["id"]},
        model={"id": str(generator)},
        prompt={"template": "Say: {{ text }}"},
        generation={"max_new_tokens": 24},
        shards={"rows": SHARD_ROWS},
    )
    with shell.start("run", "job.yaml") as process:
        run_until_more_parts(shell, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda: not shell.processes(), "the death of everything it started")

    with shell.start("run", "job.yaml") as process:
        run_until_more_parts(shell, process)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert shell.processes() == {}
    assert not (shell.folder / "out" / "_SUCCESS").exists()

    kept = {path: path.stat().st_mtime_ns for path in (shell.folder / "out").glob("part-*.parquet")}
    ended = shell.run("run", "job.yaml", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["rows_added"] == NUM_ROWS - SHARD_ROWS * len(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_every_row_once(read_parts(shell.folder / "out"), NUM_ROWS)
