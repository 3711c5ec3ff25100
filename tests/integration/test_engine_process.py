"""The engine as a process of its own: shared, switched, killed, stalled, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from parquetry.schemas.errors import EngineLostError, EngineRefusedError, EngineStartError, OtherWeightsError
from parquetry.schemas.manifest import PartRecord
from parquetry.schemas.progress.status import EngineStats
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.process import client as client_module
from parquetry.workers.process.client import EngineClient
from parquetry.workers.process.supervisor import EngineSupervisor
from parquetry.workers.request import Completion, GenerationRequest, SamplingParams
from parquetry.workers.shards.pipeline import run_shard
from parquetry.workers.shards.provenance import from_metadata
from tests.unit.workers.workers_records import make_record, write_table

FACTORY = "tests.integration.test_engine_process:slow_echo"
#: keys of the engines this process had, one after the other on the same weights
BUILT: list[str] = []


class SlowEcho(Engine):
    """Answers one request every tenth of a second; what the prompt says, it does."""

    def __init__(self, spec: EngineSpec) -> None:
        if spec.model_path == "broken":
            raise ValueError("the weights are of another model")
        if spec.model_path == "full":
            raise MemoryError("no room")
        if spec.model_path == "slow":
            time.sleep(60)
        if BUILT and spec.model.attention == "flash_attention_2":
            raise OtherWeightsError(reason="they are float32")
        BUILT.append(spec.key)
        self.waiting: list[GenerationRequest] = []

    def add(self, requests):
        self.waiting += requests

    def step(self):
        time.sleep(0.1)
        request = self.waiting.pop(0)
        if request.prompt_ids[0] == 666:
            raise RuntimeError("device-side assert triggered")
        return [Completion(id=request.id, output_ids=request.prompt_ids, finish_reason="stop")]

    def cancel(self, ids):
        self.waiting = [request for request in self.waiting if request.id not in set(ids)]

    @property
    def num_unfinished(self):
        return len(self.waiting)

    def describe(self):
        return {"backend": "echo", "pid": str(os.getpid()), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}


def slow_echo(spec: EngineSpec) -> SlowEcho:
    return SlowEcho(spec)


@pytest.fixture
def setting(monkeypatch) -> Iterator[Callable[..., None]]:
    """Changes settings here and in the engines."""

    def change(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"PARQUETRY_{name.upper()}", str(value))
        settings.cache_clear()

    yield change
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
def supervisor(setting) -> Iterator[EngineSupervisor]:
    setting(engine_factory=FACTORY)
    with tempfile.TemporaryDirectory(prefix="pq-") as folder:
        supervisor = EngineSupervisor("cpu", Path(folder) / "device")
        supervisor.start()
        yield supervisor
        supervisor.stop()


def spec_of(path: str, **model: str) -> EngineSpec:
    return EngineSpec(task="generate", model_path=path, model=ModelSpec(id=path, **model))


def connect(supervisor: EngineSupervisor, path: str = "a", **options) -> EngineClient:
    return EngineClient.connect(supervisor.socket, spec_of(path), **options)


def request(id: int, *ids: int) -> GenerationRequest:
    return GenerationRequest(id=id, prompt_ids=np.array(ids, np.int32), params=SamplingParams(max_new_tokens=4))


def collect(client: EngineClient, count: int, timeout_s: float = 20.0) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    deadline = time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < deadline:
        found |= {result.id: result.output_ids.tolist() for result in client.results(0.2)}
    return found


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_several_connections_share_one_engine(supervisor):
    with connect(supervisor) as first, connect(supervisor) as second:
        # the same ids on both
        first.submit([request(1, 10), request(2, 20)])
        second.submit([request(1, 30)])

        assert collect(first, 2) == {1: [10], 2: [20]}
        assert collect(second, 1) == {1: [30]}
        assert first.describe() == second.describe()


def test_results_wait_no_longer_than_told(supervisor):
    with connect(supervisor) as client:
        began = time.monotonic()
        assert client.results(0.3) == []
        assert 0.25 < time.monotonic() - began < 2
        assert client.results() == []


def test_a_closed_connection_cancels_its_requests(supervisor):
    with connect(supervisor) as leaver:
        leaver.submit([request(i, 1) for i in range(1000)])
        leaver.results(0.2)
    with connect(supervisor) as client:
        client.submit([request(7, 7)])

        assert collect(client, 1, timeout_s=5) == {7: [7]}


def test_cancelled_requests_give_no_result(supervisor):
    with connect(supervisor) as client:
        client.submit([request(i, i) for i in range(100)])
        client.cancel(range(1, 99))

        found = collect(client, 2, timeout_s=5)

    assert 99 in found
    assert len(found) < 10


def test_a_killed_engine_is_reported_and_replaced(supervisor):
    with connect(supervisor) as client:
        client.submit([request(1, 1)] * 50)
        os.kill(int(client.describe()["pid"]), signal.SIGKILL)
        with pytest.raises(EngineLostError, match="SIGKILL"):
            collect(client, 50)

    with connect(supervisor) as client:
        client.submit([request(1, 5)])
        assert collect(client, 1) == {1: [5]}


def test_a_stalled_engine_is_killed_and_replaced(supervisor, setting):
    setting(engine_stall_seconds=2)
    with connect(supervisor) as client, connect(supervisor) as other:
        pid = int(client.describe()["pid"])
        os.kill(pid, signal.SIGSTOP)
        for lost in (client, other):
            with pytest.raises(EngineLostError, match="no sign of life for 2 s"):
                collect(lost, 1)
    assert not is_alive(pid)

    with connect(supervisor) as client:
        client.submit([request(1, 5)])
        assert collect(client, 1) == {1: [5]}


def test_an_idle_engine_is_no_stalled_engine(supervisor, setting):
    setting(engine_stall_seconds=2)
    with connect(supervisor) as client:
        pid = client.describe()["pid"]
        time.sleep(3)

        assert client.results() == []
        with connect(supervisor) as other:
            assert other.describe()["pid"] == pid


def test_an_error_on_the_device_is_told_in_a_sentence(supervisor):
    with connect(supervisor) as client:
        client.submit([request(1, 666)])

        with pytest.raises(EngineLostError, match="RuntimeError: device-side assert triggered"):
            collect(client, 1)


def test_a_model_that_will_never_load_is_refused(supervisor):
    with pytest.raises(EngineRefusedError, match="the weights are of another model"):
        connect(supervisor, "broken")


def test_a_full_device_may_have_room_later(supervisor):
    with pytest.raises(EngineStartError, match="out of memory"):
        connect(supervisor, "full")


def test_loading_has_a_deadline(supervisor, setting):
    setting(engine_start_seconds=3)

    with pytest.raises(EngineStartError, match="longer than 3 s to load"):
        connect(supervisor, "slow")


def test_waiting_can_be_given_up(supervisor):
    class GiveUpError(Exception):
        pass

    def give_up() -> None:
        raise GiveUpError

    with pytest.raises(GiveUpError):
        connect(supervisor, "slow", on_wait=give_up)


def test_an_engine_tells_its_counts_until_it_is_gone(supervisor):
    with connect(supervisor) as client:
        assert wait_until(lambda: supervisor.engine_stats is not None)
        client.submit([request(1, 10)])
        collect(client, 1)
        assert wait_until(lambda: 0.1 <= supervisor.engine_stats.busy_seconds < 5)
        os.kill(supervisor.engine_pid, signal.SIGKILL)
        assert wait_until(lambda: supervisor.engine_stats is None)


def test_models_are_switched_when_nobody_uses_the_other(supervisor):
    with connect(supervisor, "a") as client:
        pid = int(client.describe()["pid"])
        others: list[EngineClient] = []
        thread = threading.Thread(target=lambda: others.append(connect(supervisor, "b")))
        thread.start()
        time.sleep(1)
        # the first model still has a user
        client.submit([request(1, 1)])
        assert collect(client, 1) == {1: [1]}
        assert not others
    thread.join(20)

    (other,) = others
    with other:
        assert int(other.describe()["pid"]) != pid
        assert not is_alive(pid)


def test_a_silent_user_does_not_keep_the_device_from_others(supervisor, setting):
    setting(lease_seconds=0.5)
    with connect(supervisor, "a") as silent:
        silent.submit([request(1, 1)])
        with connect(supervisor, "b") as other:
            other.submit([request(1, 2)])
            assert collect(other, 1) == {1: [2]}
        with pytest.raises(EngineLostError, match=r"no sign of life for 0\.5 s"):
            collect(silent, 2)


def test_a_user_at_work_keeps_its_engine(supervisor, setting, monkeypatch):
    monkeypatch.setattr(client_module, "_SIGN_S", 0.05)
    setting(lease_seconds=2)
    with connect(supervisor, "a") as client:
        others: list[EngineClient] = []
        thread = threading.Thread(target=lambda: others.append(connect(supervisor, "b")))
        thread.start()
        # it has nothing in flight: that it asks is sign enough
        assert collect(client, 1, timeout_s=4) == {}
        client.submit([request(1, 1)])
        assert collect(client, 1) == {1: [1]}
        assert not others
    thread.join(20)
    others[0].close()


def test_who_wakes_up_late_hands_nothing_to_the_next_engine_on_the_weights(supervisor, setting):
    setting(lease_seconds=0.5)
    with connect(supervisor, "a") as silent:
        pid = supervisor.engine_pid
        with EngineClient.connect(supervisor.socket, spec_of("a", attention="sdpa")) as other:
            # it would end the engine
            silent.submit([request(1, 666)])
            other.submit([request(1, 2), request(2, 3)])
            assert collect(other, 2) == {1: [2], 2: [3]}
            assert supervisor.engine_pid == pid
        with pytest.raises(EngineLostError):
            collect(silent, 1)


def test_weights_that_cannot_stay_are_loaded_by_a_new_process(supervisor):
    pids = []
    for attention in ("auto", "sdpa", "flash_attention_2", "eager"):
        with EngineClient.connect(supervisor.socket, spec_of("a", attention=attention)) as client:
            client.submit([request(1, 5)])
            assert collect(client, 1) == {1: [5]}
            pids.append(client.describe()["pid"])

    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_stopping_leaves_no_process_and_no_socket(supervisor):
    with connect(supervisor) as client:
        pid = int(client.describe()["pid"])
        supervisor.stop()
        with pytest.raises(EngineLostError):
            collect(client, 1)

    assert not is_alive(pid)
    assert list(supervisor.socket.parent.glob("*.sock")) == []


def test_no_supervisor():
    with pytest.raises(EngineStartError, match="no supervisor listens"):
        EngineClient.connect(Path("/nowhere/supervisor.sock"), spec_of("a"))


def test_only_the_devices_gpus_are_visible(setting, monkeypatch):
    setting(engine_factory=FACTORY)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    with tempfile.TemporaryDirectory(prefix="pq-") as folder:
        supervisor = EngineSupervisor("cuda:1,2", Path(folder))
        supervisor.start()
        try:
            with connect(supervisor) as client:
                assert client.describe()["gpus"] == "5,6"
        finally:
            supervisor.stop()


NODE = """
import time
from pathlib import Path
from tests.integration.test_engine_process import connect
from parquetry.workers.process.supervisor import EngineSupervisor
import sys
supervisor = EngineSupervisor("cpu", Path(sys.argv[1]))
supervisor.start()
with connect(supervisor) as client:
    print(client.describe()["pid"], flush=True)
    time.sleep(60)
"""


def test_the_engine_dies_with_its_node(setting, tmp_path):
    setting(engine_factory=FACTORY)
    command = [sys.executable, "-c", NODE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
        pid = int(node.stdout.readline())
        assert is_alive(pid)
        node.kill()
        node.wait()

        assert wait_until(lambda: not is_alive(pid))


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    from tests.models import write_causal_lm

    return write_causal_lm(tmp_path_factory.mktemp("model"))


def test_a_shard_through_a_real_engine_process(tiny_model, tmp_path):
    texts = ["hello", None, "", "😀", "nul \x00", "x" * 100_000]
    source = write_table(tmp_path / "in.parquet", {"text": texts})
    record = make_record([source], model={"id": str(tiny_model)}, generation={"max_new_tokens": 8})
    attempt = tmp_path / "attempt.parquet"
    with tempfile.TemporaryDirectory(prefix="pq-") as folder:
        supervisor = EngineSupervisor("cpu", Path(folder))
        supervisor.start()
        try:
            with EngineClient.connect(supervisor.socket, EngineSpec.of(record)) as client:
                summary = run_shard(record, record.shard_plan.shard(0), fence=1, attempt=attempt, engine=client)
                counted = stats_of(supervisor, summary)
        finally:
            supervisor.stop()

    assert counted.prompt_tokens == summary.prompt_tokens
    assert counted.computed_tokens >= counted.prompt_tokens - counted.cached_tokens
    assert (counted.running, counted.waiting, counted.kv_use) == (0, 0, 0.0)
    assert 0 < counted.busy_seconds <= counted.seconds
    table = pq.read_table(attempt)
    assert (summary.rows, summary.error_rows) == (6, 2)
    assert [error is None for error in table["error"].to_pylist()] == [True, False, True, True, True, False]
    assert all(reason in ("stop", "length", "error") for reason in table["finish_reason"].to_pylist())


def stats_of(supervisor: EngineSupervisor, part: PartRecord) -> EngineStats:
    """What the engine tells when it has told of the whole part."""

    def has_all() -> bool:
        stats = supervisor.engine_stats
        return stats is not None and stats.output_tokens >= part.output_tokens and not stats.running

    assert wait_until(has_all), supervisor.engine_stats
    assert supervisor.engine_stats is not None
    return supervisor.engine_stats


def rank_of(engine_pid: int) -> int:
    """Process id of the engine's only other rank; a compiler's processes may be its children too."""
    children = Path(f"/proc/{engine_pid}/task/{engine_pid}/children").read_text().split()
    (rank,) = [child for child in children if b"rank_process" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return int(rank)


@pytest.mark.skipif(not Path("/proc").exists(), reason="children are found in /proc")
def test_an_engine_of_two_ranks_dies_whole_and_comes_back(tiny_model, tmp_path):
    source = write_table(tmp_path / "in.parquet", {"text": [f"row {i}" for i in range(8)]})
    record = make_record([source], model={"id": str(tiny_model)}, generation={"max_new_tokens": 16})
    with tempfile.TemporaryDirectory(prefix="pq-") as folder:
        supervisor = EngineSupervisor("cpu:0,1", Path(folder))
        supervisor.start()
        try:
            client = EngineClient.connect(supervisor.socket, EngineSpec.of(record))
            engine = supervisor.engine_pid
            os.kill(rank_of(engine), signal.SIGKILL)
            with client, pytest.raises(EngineLostError, match=r"rank 1 \(cpu\) was killed by SIGKILL"):
                run_shard(record, record.shard_plan.shard(0), fence=1, attempt=tmp_path / "lost.parquet", engine=client)
            assert wait_until(lambda: not is_alive(engine))

            with EngineClient.connect(supervisor.socket, EngineSpec.of(record)) as client:
                attempt = tmp_path / "attempt.parquet"
                summary = run_shard(record, record.shard_plan.shard(0), fence=2, attempt=attempt, engine=client)
                assert (summary.rows, summary.error_rows) == (8, 0)
                assert from_metadata(pq.read_schema(attempt).metadata)["tensor_parallel"] == "2"
                rank = rank_of(supervisor.engine_pid)
                os.kill(supervisor.engine_pid, signal.SIGKILL)
                assert wait_until(lambda: not is_alive(rank))
        finally:
            supervisor.stop()
