"""What SECURITY.md promises: each point names a test that is there, and what images install is locked by hash."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from parquetry.schemas.settings import Settings
from parquetry.schemas.settings_files import OF_FOLDER

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()
POINTS = re.findall(r"^\| (\d+) \| (.+) \| `(tests/\S+\.py)::(\w+)` \|$", PAGE, re.MULTILINE)
PACKAGE = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def test_there_are_twenty_four_points():
    assert [int(number) for number, *_ in POINTS] == list(range(1, 25))


@pytest.mark.parametrize(("file", "name"), [point[2:] for point in POINTS])
def test_the_test_of_a_point_exists(file, name):
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_setting_that_a_folder_may_not_have_is_explained_or_harmless():
    told = set(re.findall(r"`(\w+)`", PAGE.partition("## Settings that widen trust")[2]))
    assert set(Settings.model_fields) - OF_FOLDER - told <= {"failpoints"}


@pytest.mark.parametrize("image", ["gpu", "cpu"])
def test_every_package_of_an_image_is_pinned_by_hash(image):
    entries = re.split(r"(?m)^(?=\S)", (ROOT / f"deploy/locks/{image}.txt").read_text())
    entries = [entry for entry in entries if entry.strip()]
    assert len(entries) > 50
    assert not [entry for entry in entries if not PACKAGE.match(entry) or "--hash=sha256:" not in entry]
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    assert f"pip install --require-hashes --no-deps -r deploy/locks/{image}.txt" in dockerfile


@pytest.mark.parametrize("image", ["gpu", "cpu"])
def test_the_locks_hold_what_the_tests_passed_with(image):
    tested = dict(PACKAGE.findall((ROOT / "constraints.txt").read_text()))
    locked = dict(PACKAGE.findall((ROOT / f"deploy/locks/{image}.txt").read_text()))
    assert {name: version for name, version in locked.items() if tested.get(name, version) != version} == {}


#: of the overlay: the broker, and what it leaves out
OTHERS = ("redis", "flower")


def test_the_overlay_with_tls_fits_the_compose_file():
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    overlay = yaml.safe_load((ROOT / "deploy/redis/compose.tls.yml").read_text())["services"]
    assert set(overlay) <= set(services)
    assert overlay["redis"]["command"][:7] == services["redis"]["command"][:7]
    urls = [service["environment"]["PARQUETRY_BROKER_URL"] for name, service in overlay.items() if name not in OTHERS]
    assert all(url.startswith("rediss://") for url in urls)
    users = set(re.findall(r"^user (\w+)", (ROOT / "deploy/redis/users.acl").read_text(), re.MULTILINE))
    assert {url.removeprefix("rediss://").partition(":")[0] for url in urls} <= users
