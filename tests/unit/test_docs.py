"""Documents that could drift from the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def test_the_list_of_modules_is_the_code():
    printed = subprocess.run([sys.executable, ROOT / "docs/modules.py"], capture_output=True, text=True, check=True)
    assert printed.stdout == (ROOT / "docs/modules.md").read_text(), "run: python docs/modules.py > docs/modules.md"


def test_every_module_says_what_it_is_for():
    assert not [line for line in (ROOT / "docs/modules.md").read_text().splitlines() if line.endswith("|  |")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#]+)\)", document.read_text())
    local = [link for link in links if "://" not in link]
    assert not [link for link in local if not (document.parent / link).exists()]


def test_every_command_of_the_readme_exists():
    from typer.main import get_command

    from parquetry.cli import app

    commands = set(get_command(app).commands)
    used = set(re.findall(r"^parquetry ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert used and used <= commands
