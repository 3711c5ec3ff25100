"""Pictures of the page for docs/: `python -m tests.page.screenshots`; with a folder named, all pictures go there."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from parquetry.schemas.progress.states import EnginePhase, JobState
from parquetry.tasks.broker.connection import connect
from parquetry.tasks.ledger.ledger import Ledger
from tests.acceptance.commands import Shell, wait_until
from tests.chaos.server import Server
from tests.page.world import World

#: shown in docs/; the others are for whoever changes the page
IN_DOCS = ("jobs", "job", "job-dark", "job-phone", "rows", "errors", "workers", "report")
TARGET = Path(__file__).resolve().parents[2] / "docs" / "images"
#: name -> (job or path, width, height, theme, what is waited for)
PICTURES = {
    "jobs": ("/", 1200, 640, "light", ".jobs tbody tr"),
    "job": ("tickets", 1200, 1130, "light", ".plot canvas"),
    "job-dark": ("tickets", 1200, 1130, "dark", ".plot canvas"),
    "job-phone": ("tickets", 390, 844, "light", ".plot canvas"),
    "shard": ("tickets", 1200, 1130, "light", ".plot canvas"),
    "rows": ("tickets#rows", 1200, 860, "light", ".row"),
    "errors": ("tickets#errors", 1200, 860, "light", ".group .row"),
    "spec": ("tickets#spec", 1200, 860, "light", ".spec .chosen"),
    "failed": ("reviews#errors", 1200, 640, "light", ".group"),
    "damaged": ("embeddings", 1200, 360, "light", ".say"),
    "cancel": ("tickets", 1200, 640, "dark", ".plot canvas"),
    "workers": ("/workers", 1200, 560, "light", ".worker"),
    "many": ("/?search=nightly&state=failed", 1200, 640, "light", ".jobs tbody tr"),
    "nothing": ("/?search=no+such+job", 1200, 420, "dark", ".empty h2"),
    "report": ("/api/jobs/{tickets}/report", 1000, 1200, "light", ".facts"),
}


@contextmanager
def shown_world(folder: Path) -> Iterator[tuple[str, World, dict[str, str]]]:
    """A dashboard's address, its world, and ids of jobs by name."""
    server = Server(folder / "broker", persistent=False)
    shell = Shell(folder).with_broker(server.url)
    client = connect(server.url)
    world = World(client, Ledger(client, "default"), folder / "results")
    jobs = {"summaries": world.done().job, "reviews": world.failed().job, "embeddings": world.damaged().job}
    paused = world.submit("translate", age_s=300, priority=9)
    world.ledger.set_state(paused.job, JobState.PAUSED)
    jobs["tickets"] = world.running().job
    world.worker("gpu-node-4-90-0-9934aa", phase=EnginePhase.LOADING, seconds=21.0)
    world.many(10_000)
    try:
        with shell.start("dashboard", "--port", "0"):
            log = next(folder.glob("dashboard-*.log"))
            wait_until(lambda: log.read_text().endswith("\n"), "the dashboard")
            yield log.read_text().split()[-1], world, jobs
    finally:
        client.close()
        server.kill()


def take(browser: Browser, address: str, jobs: dict[str, str], name: str, target: Path) -> None:
    """One picture, in few colours, which makes it small."""
    where, width, height, theme, drawn = PICTURES[name]
    job, _, tab = where.partition("#")
    path = where.format(**jobs) if where.startswith("/") else f"/job/{jobs[job]}{f'#{tab}' if tab else ''}"
    page = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme).new_page()
    page.goto(address + path)
    page.wait_for_selector(drawn)
    page.wait_for_timeout(1500)
    _prepare(page, name)
    page.screenshot(path=target / f"{name}.png")
    page.context.close()
    with Image.open(target / f"{name}.png") as picture:
        small = picture.convert("RGB").quantize(200, dither=Image.Dither.NONE)
    small.save(target / f"{name}.png", optimize=True)


def _prepare(page: Page, name: str) -> None:
    if name == "cancel":
        page.get_by_role("button", name="Cancel").click()
    if name == "shard":
        canvas = page.locator(".shards canvas")
        canvas.focus()
        for _ in range(78):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.wait_for_selector(".drawer h3")
        page.wait_for_timeout(200)


def main(target: Path, names: Sequence[str]) -> None:
    """Take these pictures into a folder."""
    target.mkdir(exist_ok=True)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with (
        tempfile.TemporaryDirectory() as folder,
        shown_world(Path(folder)) as (address, world, jobs),
        sync_playwright() as player,
    ):
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        for name in names:
            # they would be gone after half a minute of silence
            for worker in ("gpu-node-3-811-0-a41c9e", "gpu-node-3-811-1-77b2d0"):
                world.worker(worker)
            world.worker("gpu-node-4-90-0-9934aa", phase=EnginePhase.LOADING, seconds=21.0)
            take(browser, address, jobs, name, target)
        browser.close()


if __name__ == "__main__":
    main(*((Path(sys.argv[1]), list(PICTURES)) if len(sys.argv) > 1 else (TARGET, IN_DOCS)))
