"""The folder of one call: what its job reads and writes, named by what is asked, so that the same call finds it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from parquetry.local.worker import make_state_folder
from parquetry.schemas.errors import BadInputError
from parquetry.schemas.settings import settings
from parquetry.workers.process.owned_folder import owned_folder

ROWS_FILE = "rows.parquet"
OUTPUT_FOLDER = "out"
_LOCK = ".lock"
_PREFIX = ".parquetry-frame-"


class CallBusyError(BadInputError):
    """The same call is being computed by another process or thread, in {folder}; wait for it, or change the call."""


class CallFolder:
    """`rows.parquet` and `out/`, for as long as one process holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def rows(self) -> Path:
        return self.path / ROWS_FILE

    @property
    def output(self) -> Path:
        return self.path / OUTPUT_FOLDER

    def remove(self) -> None:
        """Remove everything, once its rows are with the caller."""
        shutil.rmtree(self.path, ignore_errors=True)


def folders_root(keep: str | Path | None) -> Path:
    """Where folders of calls lie: in the caller's folder, or in ours, which others cannot read.

    Raises StateFolderError.
    """
    root = settings().state_dir / "frames" if keep is None else Path(keep).expanduser().resolve()
    make_state_folder(root)
    return root


@contextmanager
def call_folder(root: Path, name: str, settings_digest: str, batches: Iterable[pa.Table]) -> Iterator[CallFolder]:
    """The folder of the call with these settings on these rows, which are written there unless they lie there already.

    Raises CallBusyError, and what reading the batches raises.
    """
    with owned_folder(_PREFIX, root) as incoming:
        digest = _write(incoming / ROWS_FILE, batches)
        key = hashlib.sha256(f"{settings_digest} {digest}".encode()).hexdigest()[:20]
        with _held(root / f"{name}-{key}") as folder:
            if not folder.rows.exists():
                os.replace(incoming / ROWS_FILE, folder.rows)
            yield folder


def _write(path: Path, batches: Iterable[pa.Table]) -> str:
    """Write the rows, durably; a hex digest of the file, which is the same for the same rows."""
    writer: pq.ParquetWriter | None = None
    with path.open("w+b") as file:
        for table in batches:
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table.cast(writer.schema))
        if writer is not None:
            writer.close()
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _held(path: Path) -> Iterator[CallFolder]:
    """The folder with its lock, which ends with the context or with this process."""
    while True:
        path.mkdir(exist_ok=True)
        with suppress(FileNotFoundError), (path / _LOCK).open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CallBusyError(folder=path) from None
            # whoever held it may have removed the folder, and the lock with it
            if os.path.samestat(os.fstat(lock.fileno()), (path / _LOCK).stat()):
                yield CallFolder(path)
                return
