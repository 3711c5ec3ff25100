"""A file as it is sent: taken from the stream into a temporary file, and no more of it than is allowed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import IO

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from parquetry.gateway.refusals import Refusal

#: of a form, what is not its file
_MOST_AROUND = 64 << 10
_MAX_FIELDS = 16


@dataclass(frozen=True)
class Upload:
    """What was sent, until `close`."""

    filename: str
    purpose: str
    file: IO[bytes]

    def close(self) -> None:
        """Give the temporary file back."""
        self.file.close()


async def read_upload(request: Request, max_bytes: int) -> Upload:
    """The file of a form. Raises Refusal for a form that is none or too large."""
    parser = MultiPartParser(request.headers, _limited(request, max_bytes), max_files=1, max_fields=_MAX_FIELDS)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise Refusal(400, f"The body is no form with a file: {error}") from None
    file, purpose = form.get("file"), form.get("purpose")
    if not isinstance(file, UploadFile):
        raise Refusal(400, "The form has no file.", param="file")
    if purpose != "batch":
        file.file.close()
        raise Refusal(400, f"The purpose must be 'batch', and is {str(purpose)[:40]!r}.", param="purpose")
    return Upload(file.filename or "batch.jsonl", purpose, file.file)


async def _limited(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body as it comes. Raises Refusal once it is too large, however its length was announced."""
    most = max_bytes + _MOST_AROUND
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise too_large(max_bytes)
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise too_large(max_bytes)
        yield chunk


def too_large(max_bytes: int) -> Refusal:
    """What is said of a file that is larger than allowed."""
    return Refusal(413, f"The file is larger than {max_bytes:,} bytes, the most that is taken here.", param="file")
