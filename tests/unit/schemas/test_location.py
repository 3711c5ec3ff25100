"""Locations: what is accepted and how it is rebuilt, and a corpus of what must be refused."""

from __future__ import annotations

import pytest

from parquetry.schemas import location as location_module
from parquetry.schemas.errors import LocationError
from parquetry.schemas.location import Location, require_allowed
from parquetry.schemas.settings import load_settings


@pytest.mark.parametrize(
    ("text", "rebuilt"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a//b/./c/", "s3://bucket/a/b/c"),
        ("gs://my-bucket/x=1/é.parquet", "gs://my-bucket/x=1/é.parquet"),
        ("az://container/a b", "az://container/a b"),
        ("s3://key:secret@bucket/a", "s3://bucket/a"),
        ("s3://bucket/a?endpoint_override=127.0.0.1:9&scheme=http", "s3://bucket/a"),
        ("s3://bucket?endpoint_override=127.0.0.1:9", "s3://bucket"),
        ("s3://bucket/a#fragment", "s3://bucket/a"),
        ("/data/../data/a", "/data/a"),
        ("file:///data/a", "/data/a"),
        ("file://localhost/data/a%20b", "/data/a b"),
        ("file:///a/../../etc/x", "/etc/x"),
        ("/", "/"),
    ],
)
def test_rebuilt(text, rebuilt):
    assert str(Location.parse(text)) == rebuilt


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/a.parquet",
        "ftp://host/a",
        "S3://bucket/a",
        "simplecache::s3://bucket/a",
        "github://org:repo@main/a",
        "s3:/bucket/a",
        "s3:bucket/a",
        "s3://",
        "s3:///a",
        "s3://b/a",
        "s3://bucket:9000/a",
        "s3://bucket\\x/a",
        "s3://[::1]/a",
        "s3://bücket/a",
        "s3://bucket/../other/a",
        "s3://bucket/a/..",
        "s3://bucket/a\x00b",
        "s3://bucket/a\nb",
        "/data/a\x00b",
        "/data/\x1b[31m",
        "/data/a\udcff",
        "file://host/share/a",
        "file:///data/a%00b",
        "file:///data/%ff",
    ],
)
def test_refused(text):
    with pytest.raises(LocationError) as refusal:
        Location.parse(text)
    assert str(refusal.value).isprintable()


def test_a_refusal_does_not_show_the_password():
    with pytest.raises(LocationError) as refusal:
        Location.parse("s3://key:secret@b/a")
    assert "secret" not in str(refusal.value)


def test_local_links_are_resolved(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert Location.parse(f"{tmp_path}/link/a") == Location.parse(f"{tmp_path}/real/a")


def test_relative_and_home_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert str(Location.parse("a/b")) == f"{tmp_path}/a/b"
    assert str(Location.parse("~/a")) == f"{tmp_path}/home/a"


@pytest.mark.parametrize("folder", ["/data", "s3://bucket", "s3://bucket/data", "/"])
def test_join_and_parent(folder):
    root = Location.parse(folder)
    below = root.join("x=1/part.parquet")
    assert str(below) == f"{folder.rstrip('/')}/x=1/part.parquet"
    assert below.name == "part.parquet"
    assert below.parent == root.join("x=1")
    assert below.parent.parent == root
    assert Location.parse(str(below)) == below


@pytest.mark.parametrize("name", ["", ".", "/etc/passwd", "../x", "a/../../x", "a\x00b"])
@pytest.mark.parametrize("folder", ["/data", "s3://bucket/data"])
def test_join_does_not_escape(folder, name):
    with pytest.raises(LocationError):
        Location.parse(folder).join(name)


@pytest.mark.parametrize(
    ("outer", "inner", "contained"),
    [
        ("/data", "/data", True),
        ("/data", "/data/a", True),
        ("/data", "/database", False),
        ("/data/a", "/data", False),
        ("/", "/data", True),
        ("s3://bucket", "s3://bucket/a", True),
        ("s3://bucket/a", "s3://bucket/ab", False),
        ("s3://bucket/a", "gs://bucket/a/b", False),
        ("s3://bucket/a", "s3://bucket2/a/b", False),
        ("/bucket", "s3://bucket/a", False),
    ],
)
def test_contains(outer, inner, contained):
    assert Location.parse(outer).contains(Location.parse(inner)) is contained


class TestAllowedRoots:
    @pytest.fixture(autouse=True)
    def roots(self, tmp_path, monkeypatch):
        (tmp_path / "allowed").mkdir()
        (tmp_path / "secret").mkdir()
        roots = [str(tmp_path / "allowed"), "s3://bucket/team"]
        monkeypatch.setattr(location_module, "settings", lambda: load_settings(allowed_roots=roots))

    def test_inside(self, tmp_path):
        Location.parse(f"{tmp_path}/allowed/a")
        Location.parse("s3://bucket/team/a")

    @pytest.mark.parametrize("uri", ["s3://bucket/teammates/a", "s3://other/team", "gs://bucket/team", "/etc"])
    def test_outside(self, uri):
        with pytest.raises(LocationError, match="outside the allowed roots"):
            Location.parse(uri)

    def test_a_link_does_not_lead_out(self, tmp_path):
        (tmp_path / "allowed" / "link").symlink_to(tmp_path / "secret")
        with pytest.raises(LocationError, match="outside the allowed roots"):
            Location.parse(f"{tmp_path}/allowed/link/a")

    def test_dots_do_not_lead_out(self, tmp_path):
        with pytest.raises(LocationError, match="outside the allowed roots"):
            Location.parse(f"file://{tmp_path}/allowed/../secret/a")

    def test_models_and_adapters_lie_inside(self, tmp_path):
        for name in ("allowed", "secret"):
            (tmp_path / name / "model").mkdir()
            (tmp_path / name / "model" / "config.json").write_text("{}")

        require_allowed(tmp_path / "allowed" / "model")
        with pytest.raises(LocationError, match="outside the allowed roots"):
            require_allowed(tmp_path / "secret" / "model")

    def test_no_file_of_a_model_is_a_link_that_leads_out(self, tmp_path):
        (tmp_path / "secret" / "key").write_text("x")
        (tmp_path / "allowed" / "vocab.txt").symlink_to(tmp_path / "secret" / "key")
        with pytest.raises(LocationError, match="outside the allowed roots"):
            require_allowed(tmp_path / "allowed")
