"""The gateway and OpenAI's own client, over a real server; no worker runs, so that batches stay open."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest
import uvicorn
from openai import OpenAI

from parquetry.gateway import batch_record
from parquetry.gateway.gateway import create_app
from parquetry.gateway.gateway_spec import GatewaySpec
from parquetry.monitor.serving.web import listen
from parquetry.schemas.errors import ParquetryError
from parquetry.schemas.settings import settings
from parquetry.tasks.ledger.ledger import Ledger
from tests.chaos.input_table import write_model

TOKENS = {"alice": "sk-alice", "bob": "sk-bob"}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
LIMITS = {"file_bytes": 20_000, "lines": 50, "files": 5, "open_batches": 2}


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def lines(count: int, url: str = COMPLETIONS, model: str = "tiny") -> bytes:
    bodies = [{"model": model, "prompt": f"{number}"} for number in range(count)]
    found = [{"custom_id": f"id-{n}", "method": "POST", "url": url, "body": body} for n, body in enumerate(bodies)]
    return "\n".join(map(json.dumps, found)).encode()


@pytest.fixture
def spec(tmp_path: Path) -> GatewaySpec:
    served = {"model": {"id": str(write_model(tmp_path / "tiny"))}, "shards": {"rows": 2}}
    users = {name: digest(token) for name, token in TOKENS.items()}
    root = str(tmp_path / "root")
    return GatewaySpec.parse({"root": root, "users": users, "models": {"tiny": served}, "limits": LIMITS})


@pytest.fixture
def started(spec: GatewaySpec, ledger: Ledger, server, env: str, monkeypatch) -> Iterator[Callable[[], str]]:
    """Starts another gateway over the same root and queue; returns its address."""
    monkeypatch.setenv("PARQUETRY_BROKER_URL", server.url)
    monkeypatch.setenv("PARQUETRY_ENV", env)
    settings.cache_clear()
    running = []

    def start() -> str:
        listener = listen("127.0.0.1", 0)
        found = uvicorn.Server(uvicorn.Config(create_app(spec, ledger), log_level="error"))
        thread = threading.Thread(target=found.run, kwargs={"sockets": [listener]})
        thread.start()
        running.append((found, thread, listener))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    yield start
    for found, thread, listener in running:
        found.should_exit = True
        thread.join()
        listener.close()
    settings.cache_clear()


@pytest.fixture
def clients(started: Callable[[], str]) -> Iterator[SimpleNamespace]:
    """The client of each user, unchanged."""
    address = started()
    made = {name: OpenAI(base_url=address, api_key=token, max_retries=0) for name, token in TOKENS.items()}
    wrong = OpenAI(base_url=address, api_key="sk-wrong", max_retries=0)
    yield SimpleNamespace(**made, wrong=wrong)
    for client in (*made.values(), wrong):
        client.close()


def sent(client: OpenAI, data: bytes | None = None):
    """A batch over a new file."""
    file = client.files.create(file=("in.jsonl", lines(3) if data is None else data), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=COMPLETIONS, completion_window="24h", metadata={"of": "a test"}
    )


def test_files_are_kept_listed_read_and_deleted(clients):
    first = clients.alice.files.create(file=("a.jsonl", lines(2)), purpose="batch")
    second = clients.alice.files.create(file=("b.jsonl", lines(3)), purpose="batch")
    assert (first.filename, first.bytes, first.purpose, first.object) == ("a.jsonl", len(lines(2)), "batch", "file")
    assert {file.id for file in clients.alice.files.list()} == {first.id, second.id}
    assert clients.alice.files.retrieve(second.id) == second
    assert clients.alice.files.content(first.id).read() == lines(2)
    assert clients.alice.files.delete(first.id).deleted
    with pytest.raises(openai.NotFoundError):
        clients.alice.files.retrieve(first.id)


def test_a_batch_is_a_job_of_the_queue(clients, ledger):
    batch = sent(clients.alice)
    assert (batch.status, batch.endpoint, batch.metadata) == ("in_progress", COMPLETIONS, {"of": "a test"})
    assert (batch.request_counts.total, batch.request_counts.completed) == (3, 0)
    assert batch.expires_at - batch.created_at == 24 * 3600 and batch.output_file_id is None
    (job,) = ledger.jobs()
    assert (job.name, job.rows, job.shards) == (batch.id, 3, 2)
    assert clients.alice.batches.retrieve(batch.id) == batch
    assert [found.id for found in clients.alice.batches.list()] == [batch.id]


def test_a_cancelled_batch_says_of_each_line_that_it_was_not_executed(clients):
    batch = sent(clients.alice)
    ended = clients.alice.batches.cancel(batch.id)
    assert (ended.status, ended.output_file_id) == ("cancelled", None)
    assert (ended.request_counts.completed, ended.request_counts.failed) == (0, 3)
    assert ended.cancelled_at is not None
    errors = [json.loads(line) for line in clients.alice.files.content(ended.error_file_id).text.splitlines()]
    assert [line["custom_id"] for line in errors] == ["id-0", "id-1", "id-2"]
    assert {(line["response"], line["error"]["code"]) for line in errors} == {(None, "batch_cancelled")}
    assert ended.error_file_id in [file.id for file in clients.alice.files.list(purpose="batch_output")]
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a batch with status 'cancelled'"):
        clients.alice.batches.cancel(batch.id)
    clients.alice.files.delete(ended.error_file_id)
    with pytest.raises(openai.NotFoundError):
        clients.alice.files.content(ended.error_file_id)
    assert clients.alice.batches.retrieve(batch.id).status == "cancelled"


def test_a_batch_whose_window_is_over_expires(clients, monkeypatch):
    batch = sent(clients.alice)
    monkeypatch.setitem(batch_record.WINDOWS, "24h", 0)
    ended = clients.alice.batches.retrieve(batch.id)
    assert (ended.status, ended.expired_at is not None) == ("expired", True)
    errors = clients.alice.files.content(ended.error_file_id).text
    assert errors.count("batch_expired") == 3


def test_a_gateway_that_is_started_again_knows_everything(clients, started, ledger, wipe):
    batch = sent(clients.alice)
    wipe()
    with OpenAI(base_url=started(), api_key=TOKENS["alice"], max_retries=0) as again:
        assert again.batches.retrieve(batch.id) == batch
        assert [file.id for file in again.files.list()] == [batch.input_file_id]
    # the queue had forgotten the job
    assert [job.name for job in ledger.jobs()] == [batch.id]


def test_each_user_sees_only_what_is_theirs(clients):
    batch = sent(clients.alice)
    assert list(clients.bob.files.list()) == [] and list(clients.bob.batches.list()) == []
    for call in (
        lambda: clients.bob.files.retrieve(batch.input_file_id),
        lambda: clients.bob.files.content(batch.input_file_id),
        lambda: clients.bob.files.delete(batch.input_file_id),
        lambda: clients.bob.batches.retrieve(batch.id),
        lambda: clients.bob.batches.cancel(batch.id),
        lambda: clients.bob.batches.create(
            input_file_id=batch.input_file_id, endpoint=COMPLETIONS, completion_window="24h"
        ),
    ):
        with pytest.raises(openai.NotFoundError) as refused:
            call()
        assert refused.value.code == "not_found"
    ended = clients.alice.batches.cancel(batch.id)
    with pytest.raises(openai.NotFoundError):
        clients.bob.files.content(ended.error_file_id)


@pytest.mark.parametrize(
    "name", ["..%2Falice", "../alice", "file-" + "0" * 24, "file-out-" + "0" * 24, "a%2Fb", "x" * 5000]
)
def test_no_id_leads_elsewhere(clients, name):
    sent(clients.alice)
    for call in (clients.bob.files.retrieve, clients.bob.files.content, clients.bob.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(name)
    for call in (clients.bob.batches.retrieve, clients.bob.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            call(name)
    with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
        clients.bob.batches.create(input_file_id=name, endpoint=COMPLETIONS, completion_window="24h")


def test_a_wrong_token_opens_nothing(clients):
    for call in (clients.wrong.files.list, clients.wrong.models.list, lambda: sent(clients.wrong)):
        with pytest.raises(openai.AuthenticationError) as refused:
            call()
        assert refused.value.code == "invalid_api_key"


def test_models_are_those_of_the_operator(clients):
    assert [model.id for model in clients.alice.models.list()] == ["tiny"]
    assert clients.alice.models.retrieve("tiny").owned_by == "parquetry"
    with pytest.raises(openai.NotFoundError):
        clients.alice.models.retrieve("gpt-5")


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (b"x" * 100_000, openai.APIStatusError, "larger than 20,000 bytes"),
        (lines(51), openai.BadRequestError, "has 51 lines; 50 are the most"),
        (b"", openai.BadRequestError, "The file is empty"),
    ],
)
def test_a_file_beyond_the_limits_is_refused(clients, data, error, said):
    with pytest.raises(error, match=said):
        clients.alice.files.create(file=("in.jsonl", data), purpose="batch")
    assert list(clients.alice.files.list()) == []


def test_what_is_sent_for_another_purpose_is_refused(clients):
    with pytest.raises(openai.BadRequestError, match="purpose must be 'batch', and is 'fine-tune'"):
        clients.alice.files.create(file=("in.jsonl", lines(1)), purpose="fine-tune")


@pytest.mark.parametrize(
    ("data", "changes", "said"),
    [
        (lines(1, model="gpt-5"), {}, "'gpt-5' does not exist; there are: tiny"),
        (b"no json", {}, "first line of the file is no request"),
        (lines(1), {"endpoint": "/v1/responses"}, "'/v1/responses' is not served here"),
        (lines(1), {"endpoint": "/v1/embeddings"}, "tiny is not served at /v1/embeddings"),
        (lines(1), {"completion_window": "1h"}, "completion window is '24h'"),
        (lines(1), {"metadata": {str(n): "x" for n in range(17)}}, "at most 16 texts"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(clients, data, changes, said):
    file = clients.alice.files.create(file=("in.jsonl", data), purpose="batch")
    asked = {"input_file_id": file.id, "endpoint": COMPLETIONS, "completion_window": "24h", **changes}
    with pytest.raises(openai.BadRequestError, match=said):
        clients.alice.batches.create(**asked)


def test_a_batch_of_lines_for_another_endpoint_fails_with_a_reason(clients):
    batch = sent(clients.alice, lines(2, url=CHAT))
    assert (batch.status, batch.errors.data[0].code) == ("failed", "invalid_request")
    assert "no line asks for it; 2 ask for /v1/chat/completions" in batch.errors.data[0].message


def test_a_user_has_only_so_many_open_batches_and_files(clients):
    first, _ = sent(clients.alice), sent(clients.alice)
    with pytest.raises(openai.RateLimitError, match="2 open batches"):
        sent(clients.alice)
    assert sent(clients.bob).status == "in_progress"
    clients.alice.batches.cancel(first.id)
    assert sent(clients.alice).status == "in_progress"
    clients.alice.files.create(file=("in.jsonl", lines(1)), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="You have 5 files"):
        clients.alice.files.create(file=("in.jsonl", lines(1)), purpose="batch")


def test_a_file_that_an_open_batch_reads_stays(clients):
    batch = sent(clients.alice)
    with pytest.raises(openai.BadRequestError, match=f"read by {batch.id}, which has not ended"):
        clients.alice.files.delete(batch.input_file_id)
    clients.alice.batches.cancel(batch.id)
    assert clients.alice.files.delete(batch.input_file_id).deleted


def test_batches_come_in_pages(clients):
    ids = {sent(clients.alice).id for _ in range(2)}
    page = clients.alice.batches.list(limit=1)
    assert len(page.data) == 1 and page.has_more
    assert {batch.id for batch in page} == ids


@pytest.mark.parametrize(
    "changes",
    [
        {"users": {"a b": digest("x")}},
        {"users": {"a": "sk-plain"}},
        {"users": {}},
        {"models": {}},
        {"models": {"m": {"model": {"id": "x"}, "generation": {"temprature": 1}}}},
        {"limits": {"files": 0}},
        {"port": 1},
    ],
)
def test_an_operators_file_that_is_off_is_refused(changes):
    good = {"root": "r", "users": {"a": digest("x")}, "models": {"m": {"model": {"id": "x"}}}}
    with pytest.raises(ParquetryError):
        GatewaySpec.parse({**good, **changes})
