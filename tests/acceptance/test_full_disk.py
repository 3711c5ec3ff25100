"""A disk that fills up while parts are written: the job says so, keeps what it has, and goes on when there is room."""

import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.acceptance.commands import Shell
from tests.acceptance.tables import assert_every_row_once, read_parts

NUM_ROWS, SHARD_ROWS = 2400, 400
#: a part takes about 75 kB: there is room for all but one
DISK_KB, FILLED_KB = 1024, 600


@pytest.fixture
def disk(tmp_path):
    """A disk of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_KB}k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a small disk, and not everywhere")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing(disk, tmp_path, encoder):
    letters = np.random.default_rng(0).integers(97, 123, (NUM_ROWS, 30))
    texts = ["".join(map(chr, row)) for row in letters]
    pq.write_table(pa.table({"id": [f"id-{i}" for i in range(NUM_ROWS)], "text": texts}), tmp_path / "in.parquet")
    (disk / "filler").write_bytes(bytes(FILLED_KB << 10))
    shell = Shell(tmp_path, {"PARQUETRY_MAX_ATTEMPTS": "1"})
    shell.spec(
        "embed",
        task="embed",
        input={"path": str(tmp_path / "in.parquet")},
        output={"path": str(disk / "out"), "keep": ["id"]},
        model={"id": str(encoder)},
        embed={"text": "text", "dtype": "float32"},
        shards={"rows": SHARD_ROWS},
    )

    first = shell.run("run", "embed.yaml")
    assert first.returncode == 1
    assert "No space left on device" in first.stdout + first.stderr
    kept = sorted((disk / "out").glob("part-*.parquet"))
    assert 0 < len(kept) < NUM_ROWS / SHARD_ROWS
    # neither a damaged part nor the remains of an attempt
    assert all(pq.read_metadata(part).num_rows == SHARD_ROWS for part in kept)
    assert not list((disk / "out").glob("_attempts/*"))
    written = [part.stat().st_mtime_ns for part in kept]

    (disk / "filler").unlink()
    second = shell.run("run", "embed.yaml")
    assert second.returncode == 0, second.stderr
    assert_every_row_once(read_parts(disk / "out"), NUM_ROWS)
    assert [part.stat().st_mtime_ns for part in kept] == written
    assert shell.processes() == {}
