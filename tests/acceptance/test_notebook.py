"""The example notebook in a real Jupyter kernel, with a tiny model in place of the one it names, and its card seen."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from parquetry.schemas.settings import settings
from tests.acceptance.commands import ROOT

sys.path.insert(0, str(ROOT / "examples"))
nbformat = pytest.importorskip("nbformat")
make_notebook = pytest.importorskip("make_notebook")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook as it is after its last cell."""
    from tests.models import write_causal_lm

    folder = tmp_path_factory.mktemp("notebook")
    write_causal_lm(folder / "data/models/SmolLM2-135M-Instruct", window=1024)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARQUETRY_STATE_DIR", str(folder / "state"))
        patch.delenv("PARQUETRY_BROKER_URL", raising=False)
        settings.cache_clear()
        yield make_notebook.execute(folder)
    settings.cache_clear()
    assert list((folder / "state/frames").iterdir()) == []


def html_of(cell) -> list[str]:
    """The pieces of HTML that a cell shows."""
    outputs = [output for output in cell.outputs if "data" in output]
    return ["".join(output["data"]["text/html"]) for output in outputs if "text/html" in output["data"]]


def code_cells(made):
    return [cell for cell in made.cells if cell.cell_type == "code"]


def test_a_call_shows_one_card_that_was_updated_in_place(executed):
    card, table = html_of(code_cells(executed)[1])
    assert 'class="parquetry-job"' in card and ">done<" in card and "4/4 rows" in card
    assert "1 error rows: city is null" in card
    assert "<table" in table and "text is null" not in table
    assert "<script" not in card


def test_errors_and_types_are_shown(executed):
    outputs = [
        output["data"]["text/plain"] for cell in code_cells(executed) for output in cell.outputs if "data" in output
    ]
    assert any("[None, None, 'city is null', None]" in text for text in outputs)
    assert any("('city is null', 1)" in text for text in outputs)
    assert any(re.search(r"coastal\s+boolean", text) for text in outputs)
    assert not [output for cell in code_cells(executed) for output in cell.outputs if output.output_type == "stream"]


def test_the_notebook_in_the_repository_is_that_of_the_code():
    kept = nbformat.read(ROOT / "examples/frames.ipynb", as_version=4)
    assert [(cell.id, cell.cell_type, cell.source) for cell in kept.cells] == [
        (cell.id, cell.cell_type, cell.source) for cell in make_notebook.notebook().cells
    ]
    assert all(cell.execution_count for cell in code_cells(kept))
    assert any('class="parquetry-job"' in piece for cell in code_cells(kept) for piece in html_of(cell))


def test_the_card_fits_a_narrow_cell_and_hides_nothing_beside_it(executed, tmp_path):
    sync = pytest.importorskip("playwright.sync_api").sync_playwright
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("Chromium is not installed")
    page_file = write_page(tmp_path, html_of(code_cells(executed)[1])[0])
    with sync() as player:
        browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 360, "height": 400})
        page.goto(page_file.as_uri())
        card = page.locator(".parquetry-job")
        assert card.bounding_box()["width"] <= 360
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        bar = page.get_by_role("progressbar")
        assert bar.locator("div").bounding_box()["width"] == pytest.approx(bar.bounding_box()["width"], abs=1)
        browser.close()


def write_page(folder: Path, html: str) -> Path:
    """A page with nothing but the card."""
    page = folder / "card.html"
    page.write_text(f"<!doctype html><meta charset='utf-8'><body style='margin: 4px'>{html}", "utf-8")
    return page
