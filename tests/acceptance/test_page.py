"""The page in a real browser: headless Chromium, scripts and content policy included."""

import shutil
import subprocess

import pytest

from tests.acceptance.commands import wait_until
from tests.acceptance.tables import write_file

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
#: no sandbox in containers, and no traffic of the browser's own
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--virtual-time-budget=8000", "--dump-dom",
]  # fmt: skip

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium; apt-get install chromium")


@pytest.fixture
def page(shell, broker_url, generator):
    """Address of a dashboard over one job, whose output folder has a hostile name."""
    write_file(shell.folder / "in.parquet", 6)
    output = {"path": "out<img src=x onerror=document.title='owned'>"}
    how = {"model": {"id": str(generator)}, "prompt": {"template": "{{ text }}"}, "generation": {"max_new_tokens": 4}}
    shell.spec("job", task="generate", input={"path": "in.parquet"}, output=output, **how)
    fleet = shell.with_broker(broker_url)
    submitted = fleet.run("submit", "job.yaml")
    assert submitted.returncode == 0, submitted.stderr
    with fleet.start("dashboard", "--port", "0") as process:
        log = next(fleet.folder.glob("dashboard-*.log"))
        wait_until(lambda: log.read_text().endswith("\n") or process.poll() is not None, "the dashboard")
        yield log.read_text().split()[-1], submitted.stdout.split()[-1]


def document(address, folder):
    """The page as the browser holds it once its scripts have run."""
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder}", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_jobs_appear_and_their_names_stay_text(page, tmp_path):
    address, job = page
    seen = document(address, tmp_path / "profile")
    assert job in seen
    assert "0 of 6 rows" in seen
    assert "out&lt;img src=x" in seen
    assert "<title>owned" not in seen


def test_one_job_has_a_page(page, tmp_path):
    address, job = page
    assert "0 of 6 rows" in document(f"{address}/job/{job}", tmp_path / "profile")
