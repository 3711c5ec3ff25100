"""The page in a real browser: headless Chromium, scripts and content policy included, over a world of made jobs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from parquetry.schemas.progress.states import JobState
from parquetry.schemas.spec.budget import BudgetSpec
from parquetry.tasks.broker.connection import connect
from parquetry.tasks.ledger.ledger import Ledger
from tests.acceptance.commands import Shell, wait_until
from tests.chaos.server import Server
from tests.page.world import HOSTILE, World, alive

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
#: no sandbox in containers, and no traffic of the browser's own
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
MANY = 10_000

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium; apt-get install chromium")


@dataclass
class Site:
    """A dashboard, and the jobs that it shows."""

    address: str
    world: World
    #: id by name
    jobs: dict[str, str]
    #: what browsers complained of: a script's fault, or something that the content policy refused
    complaints: list[str]
    browser: object

    def open(self, path: str, *, width: int = 1280, height: int = 900, scheme: str = "light"):
        """A page of its own."""
        page = self.browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme).new_page()
        page.on("pageerror", lambda error: self.complaints.append(f"{path}: {error}"))
        page.on("console", lambda line: line.type == "error" and self.complaints.append(f"{path}: {line.text}"))
        page.goto(f"{self.address}{path}")
        return page

    def job(self, name: str, tab: str = "", **how: object):
        """The page of a job, once it is drawn."""
        page = self.open(f"/job/{self.jobs[name]}{tab}", **how)
        page.wait_for_selector(".job-name")
        return page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("page")
    server = Server(folder / "broker", persistent=False)
    shell = Shell(folder).with_broker(server.url)
    client = connect(server.url)
    world = World(client, Ledger(client, "default"), folder)
    jobs = {"summaries": world.done().job, "reviews": world.failed().job, "embeddings": world.damaged().job}
    jobs["tickets"] = world.running().job
    world.many(MANY)
    try:
        with (
            alive(world),
            shell.start("dashboard", "--port", "0") as process,
            playwright.sync_playwright() as player,
        ):
            log = next(folder.glob("dashboard-*.log"))
            wait_until(lambda: log.read_text().endswith("\n") or process.poll() is not None, "the dashboard")
            browser = player.chromium.launch(executable_path=BROWSER, args=FLAGS)
            yield Site(log.read_text().split()[-1], world, jobs, [], browser)
            browser.close()
    finally:
        client.close()
        server.kill()


@pytest.fixture(autouse=True)
def nothing_to_complain_of(site: Site) -> Iterator[None]:
    yield
    complaints, site.complaints[:] = list(site.complaints), []
    assert [line for line in complaints if "404" not in line] == []


def row_of(page, job: str):
    return page.locator(f".jobs tr:has(a[href='/job/{job}'])")


def test_the_list_is_searched_filtered_and_paged_by_the_server(site: Site):
    page = site.open("/")
    page.wait_for_selector(".jobs tbody tr")
    assert page.title() == "Jobs · parquetry"
    assert page.locator(".jobs tbody tr").count() == 25
    assert page.locator(".pager span").inner_text() == f"1 to 25 of {MANY + 4:,}"
    page.keyboard.press("/")
    page.keyboard.type("nightly bge 00042")
    playwright.expect(page.locator(".jobs tbody tr")).to_have_count(1)
    assert "00042" in page.locator(".jobs tbody").inner_text()
    page.fill("#search", "")
    page.get_by_role("button", name=re.compile("^cancelled", re.IGNORECASE)).click()
    playwright.expect(page.locator(".pager span")).to_have_text("1 to 25 of 1,000")
    page.get_by_role("button", name="Next").click()
    playwright.expect(page.locator(".pager span")).to_have_text("26 to 50 of 1,000")
    assert "state=cancelled&page=2" in page.url
    page.reload()
    playwright.expect(page.locator(".pager span")).to_have_text("26 to 50 of 1,000")


def test_what_changes_is_changed_in_place(site: Site):
    page = site.open("/?search=tickets")
    row = row_of(page, site.jobs["tickets"])
    row.wait_for()
    row.locator("a").focus()
    page.evaluate("""() => {
        window.seen = document.querySelector('.jobs tbody tr');
        const range = document.createRange();
        range.selectNodeContents(window.seen.querySelector('small'));
        getSelection().addRange(range);
    }""")
    selected = page.evaluate("getSelection().toString()")
    before = row.locator(".c-progress").inner_text()
    claim = site.world.ledger.claim("gpu-node-3-811-0-a41c9e", ("default",))
    site.world.client.hincrby(site.world.keys.of_job(claim.job, "ctl"), "rows_done", 250)
    playwright.expect(row.locator(".c-progress")).not_to_have_text(before, use_inner_text=True)
    assert page.evaluate("window.seen === document.querySelector('.jobs tbody tr')")
    assert page.evaluate("document.activeElement.getAttribute('href')") == f"/job/{site.jobs['tickets']}"
    assert selected and page.evaluate("getSelection().toString()") == selected
    site.world.ledger.release(claim)


def test_a_job_says_what_state_and_why_on_top(site: Site):
    page = site.job("tickets")
    assert re.fullmatch(r"\d+% running · tickets · parquetry", page.title())
    assert page.locator(".titled .badge").inner_text() == "running"
    assert "with 2 workers" in page.locator(".say").inner_text()
    page.wait_for_selector(".plot canvas")
    assert page.locator(".plot canvas").count() == 3
    assert "output" in page.locator(".legend").first.inner_text()
    failed = site.job("reviews")
    assert "with 4 failed shards" in failed.locator(".say").inner_text()
    assert failed.get_by_role("button", name="Retry").is_visible()
    damaged = site.job("embeddings")
    assert "recover" in damaged.locator(".say").inner_text()
    assert damaged.get_by_role("button", name="Cancel").count() == 0


def test_an_unknown_job_and_one_named_by_its_beginning(site: Site):
    page = site.open("/job/none-such")
    page.get_by_text("There is no job none-such").wait_for()
    named = site.open("/job/tickets")
    named.wait_for_selector(".job-name")
    assert named.url.endswith(site.jobs["tickets"])


def test_the_canvas_of_shards_is_read_and_opened_by_keys(site: Site):
    page = site.job("tickets")
    canvas = page.locator(".shards canvas")
    playwright.expect(page.locator(".shards .line .faint")).to_have_text("240")
    canvas.focus()
    for _ in range(77):
        page.keyboard.press("ArrowRight")
    assert page.locator(".pointed").inner_text() == "Shard 76: failed"
    page.keyboard.press("Enter")
    drawer = page.locator(".drawer")
    drawer.wait_for()
    assert "Shard 76" in drawer.inner_text() and "not a whole Parquet file" in drawer.inner_text()
    page.keyboard.press("Escape")
    drawer.wait_for(state="hidden")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    drawer.get_by_text("gpu-node-3-811-1-77b2d0").wait_for()
    drawer.get_by_role("link", name="Its rows").click()
    page.get_by_text("row 18,750").wait_for()


def test_input_stands_beside_output_and_stays_text(site: Site):
    page = site.job("tickets", "#rows")
    page.wait_for_selector(".row")
    assert "document.title" in page.locator(".rows").first.inner_text()
    assert HOSTILE in page.locator(".rows").first.inner_text()
    assert "owned" not in page.title() and page.locator("#view img").count() == 0
    assert page.locator(".row .in").count() == page.locator(".row .out").count() == 10


def test_errors_by_reason_and_the_spec_against_its_defaults(site: Site):
    page = site.job("tickets", "#errors")
    page.wait_for_selector(".group .example, .group .row")
    shown = page.locator("#panel-errors").inner_text()
    assert "leaves no room for an output" in shown and "Rows " in shown and "Failed shards" in shown
    page.locator("#tab-errors").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".spec .chosen")
    spec = page.locator("#panel-spec").inner_text()
    assert "model.quantization" in spec and "generation.top_p" not in spec and "flash_attention_3" in spec
    page.get_by_label("Show every key").check()
    assert "generation.top_p" in page.locator("#panel-spec").inner_text()


def test_what_stops_work_asks_first(site: Site):
    page = site.job("tickets")
    page.get_by_role("button", name="Pause").click()
    dialog = page.locator("dialog")
    assert "4 shards in flight are given back" in dialog.inner_text()
    assert page.evaluate("document.activeElement.id") == "confirm-no"
    page.keyboard.press("Escape")
    assert site.world.ledger.status(site.jobs["tickets"]).state is JobState.RUNNING
    page.get_by_role("button", name="Pause").click()
    dialog.get_by_role("button", name="Pause the job").click()
    page.get_by_role("button", name="Resume").wait_for()
    assert site.world.ledger.status(site.jobs["tickets"]).state is JobState.PAUSED
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Pause").wait_for()
    page.get_by_label("Priority, 0 is first").select_option("2")
    wait_until(lambda: site.world.ledger.status(site.jobs["tickets"]).priority == 2, "the priority")


def test_a_budget_is_raised_and_error_rows_are_retried_after_a_question(site: Site):
    ledger, job = site.world.ledger, site.jobs["tickets"]
    ledger.set_budget(job, BudgetSpec(money=100, price_per_gpu_hour=2.5))
    page = site.job("tickets")
    dialog = page.locator("dialog")
    page.get_by_role("button", name="Budget").click()
    assert "of 100 is spent" in dialog.inner_text()
    page.get_by_label("Money, at 2.5 a GPU hour").fill("250")
    page.keyboard.press("Escape")
    assert ledger.status(job).budget_gpu_seconds == 40 * 3600
    page.get_by_role("button", name="Budget").click()
    page.get_by_label("Money, at 2.5 a GPU hour").fill("250")
    dialog.get_by_role("button", name="Set the budget").click()
    wait_until(lambda: ledger.status(job).budget_gpu_seconds == 100 * 3600, "the budget")
    # error rows are for jobs that have ended
    assert page.get_by_role("button", name="Retry rows").count() == 0
    site.world.client.hset(site.world.keys.of_job(site.jobs["summaries"], "ctl"), "error_rows", 3)
    done = site.job("summaries")
    done.get_by_role("button", name="Retry rows").click()
    assert "computed anew by the job's settings" in done.locator("dialog").inner_text()
    assert done.evaluate("document.activeElement.id") == "confirm-no"
    done.keyboard.press("Escape")
    assert ledger.status(site.jobs["summaries"]).state is JobState.DONE


def test_workers_are_shown_and_drained(site: Site):
    page = site.open("/workers")
    page.wait_for_selector(".worker")
    assert "H100" in page.locator(".worker").first.inner_text()
    assert "Qwen3-8B (fp8)" in page.locator(".worker").first.inner_text()
    page.get_by_role("button", name="Drain gpu-node-3-811-0-a41c9e").click()
    page.get_by_role("button", name="Drain the worker").click()
    page.get_by_role("button", name="Let go on gpu-node-3-811-0-a41c9e").click()
    page.get_by_role("button", name="Drain gpu-node-3-811-0-a41c9e").wait_for()


@pytest.mark.parametrize(
    ("path", "drawn"),
    [
        ("/", ".jobs tbody tr"),
        ("/workers", "main h1"),
        ("tickets", ".plot canvas"),
        ("tickets#rows", ".row"),
        ("tickets#errors", ".group .row"),
        ("tickets#spec", ".spec .chosen"),
    ],
)
def test_a_phone_shows_everything_without_scrolling_sideways(path, drawn, site: Site):
    name, _, tab = path.partition("#")
    page = site.open(path, width=390) if path.startswith("/") else site.job(name, f"#{tab}" if tab else "", width=390)
    page.wait_for_selector(drawn)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_is_dark_where_the_system_is_and_where_somebody_wants_it(site: Site):
    def paper(page) -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = site.open("/"), site.open("/", scheme="dark")
    assert paper(light) != paper(dark)
    light.locator("#theme").click()
    light.locator("#theme").click()
    assert paper(light) == paper(dark)
    light.reload()
    assert paper(light) == paper(dark)


def test_a_report_is_a_page_under_its_own_policy(site: Site):
    page = site.open(f"/api/jobs/{site.jobs['tickets']}/report")
    assert page.locator("h1").inner_text() == site.jobs["tickets"]
    assert page.evaluate("getComputedStyle(document.querySelector('.facts')).display") == "grid"
    assert page.locator("svg polyline").count() >= 3


def test_the_report_beside_an_output_opens_from_the_disk(site: Site, tmp_path: Path):
    target = tmp_path / "report.html"
    shell = Shell(site.world.folder).with_broker(site.world.ledger.url)
    assert shell.run("report", "tickets", "--to", target).returncode == 0
    page = site.browser.new_context(offline=True).new_page()
    page.goto(target.as_uri())
    assert page.locator("h1").inner_text() == site.jobs["tickets"]
    assert page.evaluate("getComputedStyle(document.querySelector('.facts')).display") == "grid"
