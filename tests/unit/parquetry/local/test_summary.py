"""What `run` and `doctor` say of the dtype, on a processor with instructions for bfloat16 and on one without."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquetry.diagnosis import installation
from parquetry.diagnosis.doctor import print_findings
from parquetry.local.summary import dtype_line, print_end
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.cpu import Cpu
from parquetry.workers.loading import bf16_speed
from parquetry.workers.loading.precision import choose_precision
from parquetry.workers.shards.provenance import as_metadata
from tests.unit.monitor.made_statuses import job_status

ABLE = Cpu("x86_64", frozenset({"avx512_bf16", "avx512_vnni"}))
UNABLE = Cpu("x86_64", frozenset({"avx2"}))
FAST = "one product takes 1.00 ms in bfloat16 and 2.00 ms in float32 (avx512_bf16)"


@pytest.fixture
def processor(request, monkeypatch) -> Iterator[None]:
    """This machine has the processor that the test names, and bfloat16 is fast where it has the instructions."""
    monkeypatch.setattr(bf16_speed, "this_cpu", lambda: request.param)
    monkeypatch.setattr(installation, "this_cpu", lambda: request.param)
    monkeypatch.setattr(bf16_speed, "product_seconds", lambda: (0.001, 0.002))
    bf16_speed.cpu_bf16.cache_clear()
    yield
    bf16_speed.cpu_bf16.cache_clear()


def write_part(folder) -> None:
    """Rows of a checkpoint in bfloat16, as an engine on this processor tells of them."""
    chosen = choose_precision(ModelSpec(id="m"), {"dtype": "bfloat16"}, "cpu")
    told = as_metadata({"dtype": chosen.dtype, "why_dtype": chosen.reason})
    pq.write_table(pa.table({"row": [0]}).replace_schema_metadata(told), folder / "part-00000000.parquet")


@pytest.mark.parametrize(
    ("processor", "of_run", "of_doctor"),
    [
        (ABLE, f"Computed in bfloat16: {FAST}", "bfloat16 by avx512_bf16"),
        (
            UNABLE,
            "Computed in float32: this processor has no instructions for bfloat16",
            "no bfloat16, so dtype auto is float32",
        ),
    ],
    ids=["able", "unable"],
    indirect=["processor"],
)
def test_run_and_doctor_say_the_dtype(processor, of_run, of_doctor, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    write_part(tmp_path)
    print_end(job_status(state=JobState.DONE, output=str(tmp_path)))
    assert of_run in capsys.readouterr().out
    print_findings(list(installation.cpu()), as_json=False)
    assert of_doctor in capsys.readouterr().out


def test_an_engine_that_had_no_choice_is_not_asked() -> None:
    assert dtype_line({"dtype": "float32"}) is None
