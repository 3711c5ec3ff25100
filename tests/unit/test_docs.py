"""Documents that could drift from the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from parquetry.schemas.spec.job import JobSpec

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("schemas", "producers", "tasks", "workers", "monitor")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks/README.md"])
#: documents, and what else names files and modules of ours
NAMING = [*DOCUMENTS, *(ROOT / name for name in ("Makefile", "docker-compose.yml", "deploy/Dockerfile", ".ci/run"))]
#: a file of a kind that is kept here, or a folder with its slash; no part of an address or of a longer word
PATH = re.compile(
    r"(?<![\w./:@$<*{-])((?:[\w.-]+/)*[\w.-]+(?:\.(?:py|lua|md|svg|yaml|yml|toml|txt|sh)|/))(?![\w<*{$-])"
)
#: folders and files of whoever runs a job, which documents show
USERS = {"out", "data", "models", "adapters", "_attempts", "build", "job.yaml", "gateway.yaml", "parquetry.toml"}
MODULE = re.compile(rf"\bparquetry\.(?:{'|'.join(ROOMS)})(?:\.[a-z_]+)*")


def paths(text: str) -> set[str]:
    """Paths that a text names, without those of a user's own files and of environments."""
    return {path for path in PATH.findall(text) if path.split("/")[0] not in USERS and not path.startswith(".")}


def exists(module: str) -> bool:
    """Whether the module `parquetry.tasks.keys` lies in a checkout, as a file or as a folder."""
    path = ROOT.joinpath(*module.split(".")[1:])
    return path.is_dir() or path.with_suffix(".py").exists()


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


# the list of modules names them from their rooms, and is generated
@pytest.mark.parametrize("document", [d for d in NAMING if d.name != "modules.md"], ids=lambda path: path.name)
def test_every_path_that_is_named_exists(document):
    named = paths(document.read_text())
    assert not sorted(p for p in named if not (ROOT / p).exists() and not (document.parent / p).exists())


@pytest.mark.parametrize("document", NAMING, ids=lambda path: path.name)
def test_every_module_that_is_named_exists(document):
    assert not sorted(name for name in set(MODULE.findall(document.read_text())) if not exists(name))


def test_paths_are_found_in_text():
    text = "`workers/packed/`, see (docs/speed.md) or tasks/keys.py; https://host/a.md and/or out/x.py s3://b/c/ `*.py`"
    assert paths(text) == {"workers/packed/", "docs/speed.md", "tasks/keys.py"}


def test_the_architecture_names_every_room():
    text = (ROOT / "docs/architecture.md").read_text()
    folders = {file.parent.relative_to(ROOT) for room in (*ROOMS, "parquetry") for file in (ROOT / room).rglob("*.py")}
    assert not sorted(f"{folder}/" for folder in folders if f"`{folder}/`" not in text)


def job_keys(section: type[BaseModel] = JobSpec, prefix: str = "") -> dict[str, object]:
    """Every key of a job with its default; sections have none of their own."""
    keys: dict[str, object] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys |= job_keys(field.annotation, f"{name}.")
        else:
            keys[prefix + name] = "required" if field.default is PydanticUndefined else field.default
    return keys


def test_the_page_of_jobs_has_every_key_with_its_default():
    rows = re.findall(
        r"^\| `([a-z_.0-9]+)` \| `?([^|`]+)`? \| .* \|$", (ROOT / "docs/jobs.md").read_text(), re.MULTILINE
    )
    told = {key: yaml.safe_load(default) for key, default in rows}
    assert {key: told.get(key, "not told") for key in job_keys()} == job_keys()


def test_every_command_of_the_readme_exists():
    from typer.main import get_command

    from parquetry.cli import app

    commands = set(get_command(app).commands)
    used = set(re.findall(r"^parquetry ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert used and used <= commands


def test_every_python_that_is_promised_is_tried():
    promised = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    (tried,) = re.findall(r"^for version in (.+); do$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert promised == ["3.11", *tried.split()], "3.11 is the Python of `make test`"
