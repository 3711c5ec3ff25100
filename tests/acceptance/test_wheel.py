"""The wheel in an environment of its own: it takes one name there, and a user's modules called as our rooms do no harm.

Beside it and in the working directory lie decoys by the rooms' names, which end whatever imports them. Dependencies are
those of the interpreter that runs the tests, whose own parquetry is out of reach.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.commands import ROOT, Shell, wait_until
from tests.acceptance.tables import read_parts, write_file

ROOMS = ("schemas", "producers", "tasks", "workers", "monitor")
METADATA = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
#: what a package leaves beside its files
CACHE = "__pycache__"
DECOYS = ("tasks.py", "schemas.py", "monitor.py", "workers/__init__.py", "producers/__init__.py")
DECOY = "raise ImportError('a module of the user was taken for one of parquetry')\n"
IMPORT = """
import parquetry, parquetry.tasks.node.node, parquetry.workers.gpus, parquetry.monitor.serving.web
print(parquetry.__file__)
print(parquetry.run, parquetry.submit, parquetry.Job)
try:
    import tasks
except ImportError as error:
    print(error)
"""


@dataclass(frozen=True)
class Installed:
    """A fresh environment with the wheel in it."""

    folder: Path
    #: names in site-packages before and after the wheel came
    before: frozenset[str]
    after: frozenset[str]

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        return site_packages(self.folder)


def site_packages(environment: Path) -> Path:
    (found,) = environment.glob("lib/python*/site-packages")
    return found


def write_decoys(folder: Path) -> None:
    for name in DECOYS:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(DECOY)


def build(folder: Path) -> Path:
    """The wheel of a copy of this tree: building leaves folders behind."""
    source = folder / "source"
    source.mkdir()
    for name in filter(lambda name: (ROOT / name).exists(), METADATA):
        shutil.copy(ROOT / name, source)
    for room in ("parquetry", *ROOMS):
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns(CACHE))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    packages = site_packages(environment)
    # folders named in a .pth file are searched, but the .pth files in them are not read: an editable install is one
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "borrowed.pth").write_text("\n".join(borrowed))
    write_decoys(packages)
    before = frozenset(os.listdir(packages))
    python = environment / "bin" / "python"
    # the borrowed environment may hold an editable install of the same version, which would count as installed
    options = ("--quiet", "--no-deps", "--no-index", "--no-compile", "--ignore-installed")
    pip("--python", python, "install", *options, build(folder))
    return Installed(environment, before, frozenset(os.listdir(packages)))


@pytest.fixture
def user(shell, installed) -> Shell:
    """Somebody who works in a folder full of such names, with the installed command."""
    write_decoys(shell.folder)
    return Shell(shell.folder, program=(str(installed.folder / "bin" / "parquetry"),))


def files_below(folder: Path) -> set[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if CACHE not in path.parts}


def test_it_takes_one_name(installed):
    gained = installed.after - installed.before
    (information,) = (name for name in gained if name.endswith(".dist-info"))
    assert gained == {"parquetry", information}
    assert information.startswith("parquetry-")


def test_it_holds_every_file_of_every_room_and_no_other(installed):
    wanted = files_below(ROOT / "parquetry")
    for room in ROOMS:
        wanted |= {f"{room}/{name}" for name in files_below(ROOT / room)}
    assert files_below(installed.packages / "parquetry") == wanted
    scripts = [name for name in wanted if name.endswith(".lua")]
    assert {"py.typed", "monitor/serving/page/index.html", "tasks/ledger/lua/claim.lua"} <= wanted
    assert len(scripts) > 10


def test_it_is_imported_and_its_rooms_hide_nothing(user, installed):
    done = subprocess.run(
        **user.arguments([str(installed.python), "-c", IMPORT]), capture_output=True, text=True, check=True
    )
    where, _, decoy = done.stdout.splitlines()
    assert Path(where) == installed.packages / "parquetry" / "__init__.py"
    assert "a module of the user" in decoy


def test_its_command_runs(user):
    done = user.run("--help")
    assert done.returncode == 0, done.stderr
    assert "Offline batch inference" in done.stdout


def test_a_worker_serves(user, broker_url):
    fleet = user.with_broker(broker_url)
    with fleet.start("worker", "--cpu-engines", 1) as worker:
        wait_until(lambda: json.loads(fleet.run("jobs", "--json").stdout)["workers"], "the worker")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0


def test_a_whole_job_runs(user, encoder: Path):
    write_file(user.folder / "in.parquet", 30)
    user.spec(
        "embed",
        task="embed",
        input={"path": "in.parquet"},
        output={"path": "out"},
        model={"id": str(encoder)},
        embed={"text": "text"},
    )
    done = user.run("run", "embed.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "done"
    assert read_parts(user.folder / "out")["row"].to_pylist() == list(range(30))
