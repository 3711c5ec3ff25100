"""Where images may come from, and what each refusal says."""

from __future__ import annotations

import base64
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pytest

from parquetry.schemas.errors import InvalidValueError, RowError
from parquetry.schemas.settings import load_settings
from parquetry.workers.preparation.images import image_reader, image_roots, web_images
from parquetry.workers.preparation.images.image_column import check_image_type, read_images
from parquetry.workers.preparation.images.image_reader import ImageReader
from tests.unit.workers.workers_records import make_record, write_table

CONTENT = b"\x89PNG what is inside does not matter here"


@pytest.fixture
def folder(tmp_path):
    """in/ holds the table and images; secret lies beside it."""
    (tmp_path / "in" / "images").mkdir(parents=True)
    (tmp_path / "in" / "images" / "a.png").write_bytes(CONTENT)
    (tmp_path / "secret.png").write_bytes(b"secret")
    write_table(tmp_path / "in" / "rows.parquet", {"text": ["x"]})
    return tmp_path


@pytest.fixture
def reader_of(folder, monkeypatch):
    """Makes the reader of a job over in/rows.parquet under the given settings."""

    def make(*, path: str | list[str] | None = None, **options) -> ImageReader:
        for module in (image_reader, image_roots):
            monkeypatch.setattr(module, "settings", lambda: load_settings(**options))
        file = folder / "in" / "rows.parquet"
        return ImageReader.of(make_record([file], input={"path": path or str(file)}))

    return make


def refusal(reader: ImageReader, reference: str | bytes) -> str:
    found = reader.read([reference])
    assert isinstance(found, RowError)
    assert "\n" not in str(found)
    return str(found)


def test_paths_uris_bytes_and_data_urls(folder, reader_of):
    reader = reader_of()
    path = folder / "in" / "images" / "a.png"
    data = f"data:image/png;base64,{base64.b64encode(CONTENT).decode()}"

    found = reader.read(["images/a.png", str(path), f"file://{path}", CONTENT, data])

    assert found == (CONTENT,) * 5


@pytest.mark.parametrize("path", ["in", "in/*.parquet", "in/rows.parquet"])
def test_relative_paths_begin_in_the_inputs_folder_however_it_is_named(folder, reader_of, path):
    assert reader_of(path=f"{folder}/{path}").read(["images/a.png"]) == (CONTENT,)


def test_nothing_outside_of_the_inputs_folder_is_read(folder, reader_of):
    reader = reader_of()
    (folder / "in" / "link.png").symlink_to(folder / "secret.png")
    (folder / "in" / "up").symlink_to(folder)

    said = [
        refusal(reader, name)
        for name in (
            str(folder / "secret.png"),
            "../secret.png",
            "link.png",
            "up/secret.png",
            f"file://{folder}/secret.png",
        )
    ]

    assert all("lies outside the folders that images may come from" in text or "'..'" in text for text in said)
    assert "an operator may list more in PARQUETRY_IMAGE_ROOTS" in said[0]


def test_listed_roots_take_the_place_of_the_inputs_folder(folder, reader_of):
    reader = reader_of(image_roots=[f"{folder}/in/images"])

    assert reader.read(["images/a.png"]) == (CONTENT,)
    assert "lies outside" in refusal(reader, "rows.parquet")


def test_a_folder_whose_name_begins_alike_is_another(folder, reader_of):
    (folder / "in" / "images2").mkdir()
    (folder / "in" / "images2" / "b.png").write_bytes(CONTENT)

    assert "lies outside" in refusal(reader_of(image_roots=[f"{folder}/in/images"]), "images2/b.png")


def test_what_is_no_file_is_refused_without_waiting_for_it(folder, reader_of):
    os.mkfifo(folder / "in" / "pipe.png")
    reader = reader_of()

    assert "is not a file" in refusal(reader, "pipe.png")
    assert "is not a file" in refusal(reader, "images")
    assert "there is no image at" in refusal(reader, "images/b.png")


@pytest.mark.parametrize("name", ["a\x00b.png", "ftp://host/a.png", "s3://bucket/a.png", "http://localhost/a.png"])
def test_other_places_are_refused(reader_of, name):
    assert any(word in refusal(reader_of(), name) for word in ("is not to be had", "lies outside", "is on the web"))


def test_the_images_of_a_row_have_a_size_limit_together(reader_of):
    reader = reader_of(image_max_bytes=len(CONTENT) + 5)

    assert reader.read(["images/a.png"]) == (CONTENT,)
    for rest in (["images/a.png"], [CONTENT]):
        found = reader.read(["images/a.png", *rest])
        assert f"more than {len(CONTENT) + 5} bytes together" in str(found)


@pytest.mark.parametrize("url", ["data:image/png,abc", "data:image/png;base64,***"])
def test_broken_data_urls(reader_of, url):
    assert "base64" in refusal(reader_of(), url)


class _Handler(BaseHTTPRequestHandler):
    """/ok/a.png is there, /ok/away leads elsewhere, /ok/busy answers at the second try, all else is missing."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        busy = self.path == "/ok/busy" and self.server.asked.count(self.path) == 1
        code = {"/ok/a.png": 200, "/ok/here": 302, "/ok/away": 302, "/ok/busy": 200}.get(self.path, 404)
        self.send_response(503 if busy else code)
        if code == 302:
            self.send_header("location", "/ok/a.png" if self.path == "/ok/here" else "/private/a.png")
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(web_images, "_PAUSE_S", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_the_web_is_read_below_listed_addresses_only(reader_of, server):
    host = f"http://127.0.0.1:{server.server_port}"
    reader = reader_of(image_roots=[f"{host}/ok"])

    assert reader.read([f"{host}/ok/a.png", f"{host}/ok/here", f"{host}/ok/busy"]) == (CONTENT,) * 3
    refused = [f"{host}/private/a.png", f"{host}/ok/../private/a.png", f"{host}/ok/%2e%2e/a.png", f"{host}/ok/away"]
    refused += [
        f"http://127.0.0.1:{server.server_port + 1}/ok/a.png",
        f"http://u:p@127.0.0.1:{server.server_port}/ok/a.png",
    ]
    assert all("is on the web, and no address" in refusal(reader, url) for url in refused)
    assert "the server answered 404" in refusal(reader, f"{host}/ok/b.png")
    assert not [path for path in server.asked if path.startswith("/private")]
    # files are closed where only addresses are listed
    assert "lies outside" in refusal(reader, "images/a.png")


def test_the_web_is_cut_off_at_the_limit(reader_of, server):
    host = f"http://127.0.0.1:{server.server_port}"
    reader = reader_of(image_roots=[host], image_max_bytes=5)

    assert "has more than 5 bytes" in refusal(reader, f"{host}/ok/a.png")


def test_a_server_that_is_too_slow_is_given_up(reader_of, server, monkeypatch):
    monkeypatch.setattr(web_images, "_DEADLINE_S", -1.0)
    host = f"http://127.0.0.1:{server.server_port}"

    said = refusal(reader_of(image_roots=[host]), f"{host}/ok/a.png")

    assert "could not be fetched in 3 tries: it took more than" in said
    assert len(server.asked) == 3


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_binary(),
        IMAGE,
        pa.list_(IMAGE),
        pa.list_(pa.string()),
        pa.dictionary(pa.int8(), pa.string()),
    ],
)
def test_columns_that_can_hold_images(kind):
    check_image_type("image", kind)


@pytest.mark.parametrize("kind", [pa.int64(), pa.struct([("x", pa.int8())]), pa.list_(pa.float32())])
def test_columns_that_cannot(kind):
    with pytest.raises(InvalidValueError, match="images are paths or URLs, bytes"):
        check_image_type("image", kind)


def test_cells_to_references():
    cells = [{"bytes": b"x", "path": "p"}, {"bytes": None, "path": "p"}, {"bytes": None, "path": None}, None]
    nested = pa.array([[{"bytes": b"x", "path": None}, {"bytes": None, "path": "q"}], [], None], pa.list_(IMAGE))

    found = read_images("image", pa.array(cells, IMAGE))

    assert found[:2] == [[b"x"], ["p"]]
    assert [str(row) for row in found[2:]] == ["image is null", "image is null"]
    assert read_images("image", nested)[:2] == [[b"x", "q"], []]
    assert str(read_images("image", pa.array([""]))[0]) == "image is empty"
