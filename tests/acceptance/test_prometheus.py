"""What deploy/ asks Prometheus, asked of a real one that scrapes the real page: KEDA's query, alerts, Grafana."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from parquetry.schemas.progress.states import JobState
from parquetry.tasks.broker.connection import connect
from parquetry.tasks.ledger.ledger import Ledger
from tests.acceptance.commands import Shell, wait_until
from tests.chaos.server import Server, free_port
from tests.page.world import World, alive

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
TOKEN = "a-token-of-the-page"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/parquetry.json").read_text())
PANELS = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
ALERTS = [rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
#: panels of what only a job has that computes: rates of the last minute, durations of steps
OF_WORK = ("Time left", "Rows per second", "Tokens per second of work", "Seconds a step takes")
SCALING = yaml.safe_load((DEPLOY / "kubernetes/keda.yaml").read_text())["spec"]["triggers"][0]["metadata"]

pytestmark = pytest.mark.skipif(
    not shutil.which("prometheus") or not shutil.which("promtool"), reason="Debian's package prometheus is not there"
)


@dataclass
class Monitored:
    """A Prometheus on the page over a few jobs."""

    address: str
    world: World
    running: str
    failed: str

    def ask(self, query: str) -> list[dict[str, Any]]:
        """What a query gives now: one entry a series."""
        answer = httpx.get(f"{self.address}/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def number(self, query: str) -> float:
        (only,) = self.ask(query)
        return float(only["value"][1])


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    folder = tmp_path_factory.mktemp("prometheus")
    server = Server(folder / "broker", persistent=False)
    shell = Shell(folder, {"PARQUETRY_DASHBOARD_TOKEN": TOKEN}).with_broker(server.url)
    try:
        with connect(server.url) as client:
            world = World(client, Ledger(client, "default"), folder)
            running, failed = world.running().job, world.failed().job
            # what is paused needs no pods
            world.ledger.set_state(world.submit("paused", shards=1000).job, JobState.PAUSED)
            with alive(world), _page(shell) as page, _prometheus(folder, page) as address:
                yield Monitored(address, world, running, failed)
    finally:
        server.kill()


@contextmanager
def _page(shell: Shell) -> Iterator[str]:
    with shell.start("dashboard", "--port", "0"):
        log = next(shell.folder.glob("dashboard-*.log"))
        wait_until(lambda: log.read_text().endswith("\n"), "the page")
        yield log.read_text().split()[-1].removeprefix("http://").rstrip("/")


@contextmanager
def _prometheus(folder: Path, page: str) -> Iterator[str]:
    """The address of a Prometheus with our configuration, but for the page, the place of its token and the pace."""
    _configure(folder, page)
    address = f"127.0.0.1:{free_port()}"
    options = {"config.file": "prometheus.yml", "storage.tsdb.path": "tsdb", "web.listen-address": address}
    command = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or _has_scraped_twice(address), "Prometheus to scrape the page")
        yield f"http://{address}"
    finally:
        process.kill()
        process.wait()


def _configure(folder: Path, page: str) -> None:
    (folder / "token").write_text(TOKEN)
    shutil.copy(DEPLOY / "alerts.yml", folder)
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    (scrape,) = config["scrape_configs"]
    scrape["authorization"] = {"credentials_file": str(folder / "token")}
    scrape["static_configs"] = [{"targets": [page]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))


def _has_scraped_twice(address: str) -> bool:
    query = {"query": "count_over_time(parquetry_job_rows[1m]) > 1"}
    try:
        return bool(httpx.get(f"http://{address}/api/v1/query", params=query).json()["data"]["result"])
    except (httpx.HTTPError, KeyError, ValueError):
        return False


@pytest.mark.parametrize(("kind", "file"), [("config", "prometheus.yml"), ("rules", "alerts.yml")])
def test_promtool_accepts(kind: str, file: str, tmp_path: Path) -> None:
    # the token's file is there only where the page is
    (tmp_path / "token").write_text(TOKEN)
    text = (DEPLOY / file).read_text().replace("/run/secrets/dashboard_token", str(tmp_path / "token"))
    (tmp_path / file).write_text(text)
    shutil.copy(DEPLOY / "alerts.yml", tmp_path)
    ended = subprocess.run(["promtool", "check", kind, file], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_pods_are_counted_by_what_running_jobs_have_left(monitored: Monitored) -> None:
    status = monitored.world.ledger.status(monitored.running)
    assert status.shards_pending > 50 and status.shards_running > 0
    assert monitored.number(SCALING["query"]) == status.shards_pending + status.shards_running


def test_a_fleet_without_jobs_needs_no_pod(monitored: Monitored) -> None:
    assert monitored.number(SCALING["query"].replace('queue="default"', 'queue="empty"')) == 0


@pytest.mark.parametrize(("title", "query"), PANELS, ids=[f"{title}-{i}" for i, (title, _) in enumerate(PANELS)])
def test_every_panel_of_grafana_has_an_answer(monitored: Monitored, title: str, query: str) -> None:
    for jobs in (".*", monitored.running):
        asked = query.replace("$job", jobs)
        if title in OF_WORK:
            monitored.ask(asked)
        else:
            wait_until(partial(monitored.ask, asked), f"{title}: {asked}")


def test_grafana_has_the_jobs_to_choose_from(monitored: Monitored) -> None:
    jobs = httpx.get(f"{monitored.address}/api/v1/label/job/values", params={"match[]": "parquetry_job_rows"}).json()
    assert {monitored.running, monitored.failed} <= set(jobs["data"])


def test_every_alert_is_evaluated_and_names_its_job(monitored: Monitored) -> None:
    def rules() -> list[dict[str, Any]]:
        groups = httpx.get(f"{monitored.address}/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] == "ok" for rule in rules()), "every rule to be evaluated")
    assert [rule["name"] for rule in rules()] == [rule["alert"] for rule in ALERTS]
    firing = 'ALERTS{alertname="ParquetryShardsFailed",alertstate="firing"}'
    wait_until(lambda: monitored.ask(firing), "the alert of failed shards")
    assert {found["metric"]["job"] for found in monitored.ask(firing)} == {monitored.running, monitored.failed}
