"""The page of OpenAI's format as a user follows it: its job, its gateway and its client, on a real worker."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from tests.acceptance.commands import ROOT, wait_until

PAGE = (ROOT / "docs/openai.md").read_text()


def block(language: str, number: int = 0) -> str:
    """A block of code of the page."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[number]


@pytest.fixture
def fleet(shell, broker_url, tmp_path_factory):
    """A shell with a broker, the files that the page names, and its model."""
    from tests.models import write_causal_lm

    write_causal_lm(shell.folder / "models/tiny")
    (shell.folder / "batch.jsonl").write_text(block("json"))
    (shell.folder / "job.yaml").write_text(block("yaml", 0).replace("1024", "64"))
    (shell.folder / "gateway.yaml").write_text(block("yaml", 1).replace("1024", "64"))
    yield shell.with_broker(broker_url)
    shutil.rmtree(shell.folder / "data", ignore_errors=True)


def address(folder: Path) -> str:
    """What the gateway says where it is."""
    (log,) = folder.glob("gateway-*.log")
    wait_until(lambda: "Gateway on" in log.read_text(), f"the gateway: {log.read_text()}")
    return log.read_text().split()[-1]


def written(client: OpenAI, file_id: str) -> list[dict]:
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_the_page_is_true(fleet, monkeypatch, capsys):
    monkeypatch.chdir(fleet.folder)
    with fleet.start("worker", "--gpus", "none"), fleet.start("gateway", "gateway.yaml", "--port", "0"):
        # its job
        assert fleet.run("submit", "job.yaml").returncode == 0
        assert fleet.run("watch", "@last").returncode == 0
        (answer,) = map(json.loads, (fleet.folder / "out/_batch_output.jsonl").read_text().splitlines())
        assert (answer["custom_id"], answer["response"]["status_code"]) == ("row-1", 200)
        assert answer["response"]["body"]["usage"]["completion_tokens"] <= 8
        assert (fleet.folder / "out/_batch_errors.jsonl").read_bytes() == b""

        # its client
        monkeypatch.setenv("OPENAI_BASE_URL", address(fleet.folder))
        monkeypatch.setenv("OPENAI_API_KEY", "sk-alice")
        exec(compile(block("python"), "docs/openai.md", "exec"), {})
        assert "BatchRequestCounts(completed=1, failed=0, total=1)" in capsys.readouterr().out

        with OpenAI() as client:
            (batch,) = client.batches.list()
            (line,) = written(client, batch.output_file_id)
            assert (line["custom_id"], batch.error_file_id) == ("row-1", None)
            more(client)
            with OpenAI(api_key="sk-wrong", max_retries=0) as wrong, pytest.raises(openai.AuthenticationError):
                wrong.files.list()


def more(client: OpenAI) -> None:
    """A batch of many lines, some of which are refused."""
    line = json.loads(block("json"))
    bodies = [{**line["body"], "seed": number, **({"stream": True} if number % 5 == 0 else {})} for number in range(20)]
    lines = [{**line, "custom_id": f"id-{number}", "body": body} for number, body in enumerate(bodies)]
    data = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("many.jsonl", data), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    wait_until(lambda: client.batches.retrieve(batch.id).status == "completed", "the batch")
    ended = client.batches.retrieve(batch.id)
    counts = ended.request_counts
    assert (counts.total, counts.completed, counts.failed) == (20, 16, 4)
    answers, errors = written(client, ended.output_file_id), written(client, ended.error_file_id)
    assert [found["custom_id"] for found in answers] == [f"id-{n}" for n in range(20) if n % 5]
    assert [found["custom_id"] for found in errors] == [f"id-{n}" for n in range(0, 20, 5)]
    assert {found["response"]["body"]["error"]["param"] for found in errors} == {"stream"}
