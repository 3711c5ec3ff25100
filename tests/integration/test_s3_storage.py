"""Object storage against an S3 server on loopback that honours conditional puts and copies."""

from __future__ import annotations

import gzip
import logging
import os
import sys
import threading
from collections.abc import Iterator

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from parquetry.producers.inputs.inputs import find_inputs
from parquetry.producers.inputs.listing import find_files
from parquetry.schemas.errors import PutIfAbsentError, StorageError, TableFormatError
from parquetry.schemas.location import Location
from parquetry.schemas.spec.job import InputSpec
from parquetry.schemas.storage import object_store as object_storage
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage
from parquetry.workers.preparation.images.image_reader import ImageReader
from parquetry.workers.preparation.images.image_roots import ImageRoots
from parquetry.workers.shards.reader import read_shard
from tests.unit.schemas.storage_cases import StorageCases
from tests.unit.workers.workers_records import make_record

BUCKET = "warehouse"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    yield client
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        if found := [{"Key": item["Key"]} for item in page.get("Contents", [])]:
            client.delete_objects(Bucket=BUCKET, Delete={"Objects": found})
    client.delete_bucket(Bucket=BUCKET)
    client.close()


@pytest.fixture
def storage(s3) -> Storage:
    return open_storage(Location.parse(f"s3://{BUCKET}/some/out"))


class TestObjectStorage(StorageCases):
    """Every common case."""


class TestLargeParts(StorageCases):
    """Every common case, with each file taken for a large one."""

    @pytest.fixture(autouse=True)
    def everything_is_large(self, monkeypatch):
        monkeypatch.setattr(object_storage, "MAX_SINGLE_PUT", 0)


class TestWholeBucket(StorageCases):
    """Every common case at the root of a bucket."""

    @pytest.fixture
    def storage(self, s3) -> Storage:
        return open_storage(Location.parse(f"s3://{BUCKET}"))


def test_the_server_refuses_what_ours_relies_on(s3):
    """The cases above mean something only if the server itself honours If-None-Match."""
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"one", IfNoneMatch="*")
    with pytest.raises(s3.exceptions.ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=BUCKET, Key="k", Body=b"two", IfNoneMatch="*")
    assert s3.get_object(Bucket=BUCKET, Key="k")["Body"].read() == b"one"


def test_a_large_part_is_uploaded_in_pieces_and_staged_copies_are_removed(s3, storage, monkeypatch):
    monkeypatch.setattr(object_storage, "MAX_SINGLE_PUT", 1 << 20)
    content = bytes(range(256)) * (20 << 12)
    with storage.attempt("part") as attempt:
        attempt.write_bytes(content)
        assert storage.publish(attempt, "part")
    assert storage.read("part") == content
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET)["Contents"]] == ["some/out/part"]


def test_a_neighbour_with_the_same_prefix_is_not_listed(s3, storage):
    s3.put_object(Bucket=BUCKET, Key="some/outer/a", Body=b"x")
    s3.put_object(Bucket=BUCKET, Key="some/out/a", Body=b"x")
    assert [entry.path for entry in storage.list()] == ["a"]


def test_more_than_one_page_is_listed(s3, storage):
    """A page holds a thousand."""
    threads = [
        threading.Thread(
            target=lambda first=first: [storage.put(f"{n:05}", b"") for n in range(first, 1010, 4)],
        )
        for first in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.path for entry in storage.list()] == [f"{n:05}" for n in range(1010)]


def test_a_missing_bucket_is_a_storage_error(s3):
    with pytest.raises(StorageError, match="listing of s3://no-such-bucket/out failed"):
        open_storage(Location.parse("s3://no-such-bucket/out")).list()


def test_probe_names_a_store_that_overwrites(storage, monkeypatch):
    real = object_storage.obstore.put

    def forgetful(*args, mode=None, **options):
        return real(*args, **options)

    monkeypatch.setattr(object_storage.obstore, "put", forgetful)
    with pytest.raises(PutIfAbsentError, match="second create"):
        storage.check_put_if_absent()
    monkeypatch.undo()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_is_told_instead_of_waiting_for_ever(s3, storage):
    storage.put("a", b"x")
    child = os.fork()
    if child == 0:
        try:
            open_storage(storage.root)
        except StorageError as error:
            os._exit(0 if "was forked from" in str(error) else 2)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_query_does_not_choose_the_server(s3, storage):
    storage.put("a", b"x")
    hostile = Location.parse(f"s3://{BUCKET}/some/out?endpoint_override=127.0.0.1:9&scheme=http")
    assert open_storage(hostile).read("a") == b"x"


def test_inputs_in_a_bucket(s3, storage):
    for language in ("de", "en"):
        with storage.attempt("p") as attempt:
            pq.write_table(pa.table({"text": ["a", "b", "c"]}), attempt, row_group_size=2)
            storage.publish(attempt, f"in/lang={language}/data.parquet")
    storage.put("in/_SUCCESS", b"")
    table = find_inputs(InputSpec(path=f"s3://{BUCKET}/some/out/in"))
    assert [file.path for file in table.files] == [
        f"s3://{BUCKET}/some/out/in/lang={language}/data.parquet" for language in ("de", "en")
    ]
    assert table.row_group_rows == [[2, 1], [2, 1]]
    assert table.schema.names == ["text", "lang"]
    assert table.files[1].partitions == {"lang": "en"}
    glob = find_inputs(InputSpec(path=f"s3://{BUCKET}/some/**/*.parquet"))
    assert [file.path for file in glob.files] == [file.path for file in table.files]


def test_compressed_text_and_tables_in_a_bucket(s3, storage, monkeypatch):
    monkeypatch.setitem(sys.modules, "deltalake", None)
    lines = b"".join(b'{"id": %d, "text": "x"}\n' % number for number in range(5000))
    storage.put("text/a.JSONL.gz", gzip.compress(lines))
    storage.put("text/b", lines)
    assert find_inputs(InputSpec(path=f"s3://{BUCKET}/some/out/text/a.JSONL.gz")).num_rows == 5000
    listing = find_files(f"s3://{BUCKET}/some/out/text")
    assert [file.location.name for file in listing.files] == ["a.JSONL.gz", "b"]
    storage.put("text/_delta_log/0.json", b"{}")
    for name in ("text", "text/a.JSONL.gz"):
        with pytest.raises(TableFormatError, match="belongs to a table of Delta"):
            find_files(f"s3://{BUCKET}/some/out/{name}")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_shards_of_compressed_text_in_a_bucket(s3, storage, kind, suffix):
    lines = [f"{i},x" if kind == "csv" else f'{{"id": {i}, "text": "x"}}' for i in range(3000)]
    data = "".join(f"{line}\n" for line in (["id,text", *lines] if kind == "csv" else lines)).encode()
    packed = gzip.compress(data) if suffix == ".gz" else pa.Codec("zstd").compress(data, asbytes=True)
    storage.put(f"text/a.{kind}{suffix}", packed)
    (file,) = find_inputs(InputSpec(path=f"s3://{BUCKET}/some/out/text")).files
    record = make_record([file], rows_per_shard=1000)
    found = [list(read_shard(record, record.shard_plan.shard(index))) for index in range(3)]
    assert [row for rows in found for piece in rows for row in piece.batch["id"].to_pylist()] == list(range(3000))


def test_images_in_a_bucket_are_read_below_their_roots_only(s3):
    for key, body in {"photos/a b.png": b"image", "private/a.png": b"secret"}.items():
        s3.put_object(Bucket=BUCKET, Key=key, Body=body)
    root = Location.parse(f"s3://{BUCKET}/photos")
    reader = ImageReader(ImageRoots(root, (root,)), max_bytes=5)

    assert reader.read(["a b.png"]) == (b"image",)
    assert reader.read([f"s3://{BUCKET}/photos/a b.png"]) == (b"image",)
    assert "lies outside the folders" in str(reader.read([f"s3://{BUCKET}/private/a.png"]))
    assert "'..' is not allowed" in str(reader.read([f"s3://{BUCKET}/photos/../private/a.png"]))
    assert "there is no image at" in str(reader.read(["b.png"]))
    assert "more than 5 bytes together" in str(reader.read(["a b.png", "a b.png"]))
