"""The storage cases on Azure Blob Storage, as Azurite plays it: npm install -g azurite."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import shutil
import socket
import subprocess
import time
import uuid

import httpx
import pytest

from parquetry.schemas.location import Location
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage
from tests.unit.schemas.storage_cases import StorageCases

AZURITE = shutil.which("azurite-blob")
#: where an emulator listens, and its one account with its published key
PORT, ACCOUNT, VERSION = 10000, "devstoreaccount1", "2021-08-06"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

pytestmark = pytest.mark.skipif(AZURITE is None, reason="azurite-blob is not on the PATH; npm install -g azurite")


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    """An emulator with the container `box`."""
    folder = str(tmp_path_factory.mktemp("azurite"))
    command = [AZURITE, "--silent", "--skipApiVersionCheck", "--location", folder, "--blobPort", str(PORT)]
    with subprocess.Popen(command) as process:
        _wait_for_port(time.monotonic() + 60)
        _make_container("box")
        yield
        process.terminate()


def _wait_for_port(deadline: float) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", PORT), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the emulator did not start"
            time.sleep(0.1)


def _make_container(name: str) -> None:
    """By a signed request, as the store's client makes none."""
    date = datetime.datetime.now(datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    signed = (
        "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{VERSION}\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    )
    digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
    authorization = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    headers = {"x-ms-date": date, "x-ms-version": VERSION, "Authorization": authorization, "Content-Length": "0"}
    address = f"http://127.0.0.1:{PORT}/{ACCOUNT}/{name}?restype=container"
    httpx.put(address, headers=headers).raise_for_status()


@pytest.fixture
def storage(emulator, monkeypatch) -> Storage:
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    return open_storage(Location.parse(f"az://box/{uuid.uuid4().hex}"))


class TestAzure(StorageCases):
    pass


def test_the_probe_passes(storage: Storage):
    storage.check_put_if_absent()
