"""What calls take is what a job takes, and what they may not is said in one sentence."""

from __future__ import annotations

from typing import get_type_hints

import pytest

from parquetry.frames import call, tasks
from parquetry.frames.call import CallOptions, FarWorkersError
from parquetry.frames.call_folder import CallBusyError, call_folder
from parquetry.local.standing import StandingSite
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.generation import GenerationSpec
from parquetry.schemas.spec.job import ClassifySpec, EmbedSpec

pa = pytest.importorskip("pyarrow")
ROWS = pa.table({"text": ["a", "b"]})


@pytest.mark.parametrize(
    ("keys", "section", "own"),
    [
        (tasks.GenerateKeys, GenerationSpec, set()),
        (tasks.ClassifyKeys, ClassifySpec, {"text"}),
        (tasks.EmbedKeys, EmbedSpec, {"text"}),
    ],
)
def test_the_keys_of_a_call_are_those_of_its_section(keys, section, own):
    offered = set(get_type_hints(keys)) - set(get_type_hints(tasks.CallKeys))
    assert offered | own == set(section.model_fields)
    assert set(get_type_hints(tasks.CallKeys)) == set(CallOptions.__dataclass_fields__)


def test_a_key_that_no_call_takes_is_refused_by_the_job(monkeypatch):
    seen = {}
    monkeypatch.setattr(tasks, "compute", lambda given, sections, options: seen.update(sections) or given)
    tasks.generate(
        [], model="m", prompt="p", json_schema={"type": "object", "properties": {"error": {"type": "string"}}}
    )
    assert seen["generation"]["json_columns"] is False
    tasks.generate([], model={"id": "m"}, prompt={"messages": "chat"}, json_schema={"type": "array"}, show=False)
    assert (seen["model"], seen["prompt"]) == ({"id": "m"}, {"messages": "chat"})


def test_the_same_rows_and_settings_have_the_same_folder(tmp_path):
    def name(settings_digest, *batches):
        with call_folder(tmp_path, "embed", settings_digest, batches) as folder:
            assert folder.rows.exists()
            return folder.path.name

    first = name("s", ROWS)
    assert first == name("s", ROWS) and first.startswith("embed-")
    assert len({first, name("t", ROWS), name("s", ROWS.slice(1)), name("s", ROWS, ROWS)}) == 4
    assert {path.name[:6] for path in tmp_path.iterdir()} == {"embed-"}


def test_rows_that_lie_there_are_not_written_again(tmp_path):
    times = []
    for _ in range(2):
        with call_folder(tmp_path, "embed", "s", [ROWS]) as folder:
            times.append(folder.rows.stat().st_mtime_ns)
    assert times[0] == times[1]


def test_a_call_that_is_being_computed_is_not_computed_twice(tmp_path):
    with call_folder(tmp_path, "embed", "s", [ROWS]) as folder:
        with (
            pytest.raises(CallBusyError, match="is being computed by another"),
            call_folder(tmp_path, "embed", "s", [ROWS]),
        ):
            pass
        folder.remove()
        # whoever comes when it is gone begins anew, though the one before still holds what was there
        with call_folder(tmp_path, "embed", "s", [ROWS]) as other:
            assert other.rows.exists()


def test_workers_of_other_machines_need_a_shared_folder(monkeypatch, tmp_path):
    class Ledger:
        def workers(self):
            return [type("Worker", (), {"host": "gpu-node-7"})]

    monkeypatch.setenv("PARQUETRY_BROKER_URL", "redis://h")
    settings.cache_clear()
    try:
        site = StandingSite()
        monkeypatch.setattr("parquetry.local.standing.open_ledger", lambda url: Ledger())
        with pytest.raises(FarWorkersError, match=r"other machines \(gpu-node-7\).*say keep="):
            call._require_near_workers(site, CallOptions())
        call._require_near_workers(site, CallOptions(keep=tmp_path))
    finally:
        settings.cache_clear()
