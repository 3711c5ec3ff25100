"""The Python API, in a process of its own."""

import subprocess
import sys

from tests.acceptance.tables import write_file

SCRIPT = """
import sys
import parquetry
from parquetry.schemas.progress.states import JobState

assert "torch" not in sys.modules
spec = {
    "task": "embed",
    "input": {"path": "in.parquet"},
    "output": {"path": "out", "keep": ["id"]},
    "model": {"id": sys.argv[1]},
    "embed": {"text": "text"},
}
job = parquetry.run(spec)
assert job.status().state is JobState.DONE
assert job.wait(timeout=0).rows_done == 30
table = job.to_table()
assert table["row"].to_pylist() == list(range(30))
assert parquetry.run(spec).to_table().equals(table)
assert job.to_table(["id"]).column_names == ["id"]
assert "torch" not in sys.modules
try:
    job.pause()
except parquetry.ParquetryError as error:
    print(error)
try:
    parquetry.submit(spec)
except parquetry.ParquetryError as error:
    print(error)
"""


def test_run_from_python(shell, encoder):
    write_file(shell.folder / "in.parquet", 30)
    arguments = shell.arguments([sys.executable, "-c", SCRIPT, str(encoder)])
    ended = subprocess.run(**arguments, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    ended_already, unset = ended.stdout.splitlines()
    assert "is done, so it cannot be paused" in ended_already
    assert "PARQUETRY_BROKER_URL" in unset


def test_a_process_that_ends_right_after_reading_ends_well(shell):
    """Threads that outlive the read would abort it, one time in six."""
    (shell.folder / "out").mkdir()
    write_file(shell.folder / "out" / "part-00000000.parquet", 30)
    script = "from parquetry.output import head, read_output; read_output('out'); head('out', 3)"
    arguments = shell.arguments([sys.executable, "-c", script])
    assert [subprocess.run(**arguments).returncode for _ in range(12)] == [0] * 12
