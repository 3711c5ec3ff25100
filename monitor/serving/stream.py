"""Server-sent events: one look a second, sent when something has changed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from parquetry.monitor.serving.answers import SECURITY_HEADERS, json_answer
from parquetry.schemas.errors import ParquetryError

LOOK_S = 1.0
#: a line is sent so often when nothing changes, so that whoever is in between keeps the connection
QUIET_S = 15.0
MAX_STREAMS = 200


class Streams:
    """The open streams of one dashboard."""

    def __init__(self) -> None:
        self._open = 0
        #: set to end all of them, since a server waits for its connections when it stops
        self.are_over: Callable[[], bool] = lambda: False

    def answer(self, look: Callable[[], dict[str, Any]], may_look: Callable[[], bool]) -> Response:
        """Send what `look` finds, until the page goes away or may look no longer."""
        if self._open >= MAX_STREAMS:
            return json_answer({"error": f"{MAX_STREAMS} pages are open already; close some"}, 503)
        headers = {**SECURITY_HEADERS, "x-accel-buffering": "no"}
        return StreamingResponse(self._lines(look, may_look), media_type="text/event-stream", headers=headers)

    async def _lines(self, look: Callable[[], dict[str, Any]], may_look: Callable[[], bool]) -> AsyncIterator[str]:
        self._open += 1
        last, sent_at = "", time.monotonic()
        try:
            while may_look() and not self.are_over():
                line, told = await run_in_threadpool(_told, look)
                if told != last:
                    last, sent_at = told, time.monotonic()
                    yield line
                elif time.monotonic() - sent_at >= QUIET_S:
                    sent_at = time.monotonic()
                    yield ": quiet\n\n"
                await self._pause()
        finally:
            self._open -= 1

    async def _pause(self) -> None:
        until = time.monotonic() + LOOK_S
        while time.monotonic() < until and not self.are_over():
            await asyncio.sleep(0.1)


def _told(look: Callable[[], dict[str, Any]]) -> tuple[str, str]:
    """The event, and what of it tells whether anything has changed: not the clock."""
    try:
        found = look()
    except ParquetryError as error:
        text = json.dumps({"error": str(error)}, ensure_ascii=False)
        return f"event: problem\ndata: {text}\n\n", text
    return f"event: look\ndata: {json.dumps(found, ensure_ascii=False)}\n\n", json.dumps(_still(found))


def _still(found: dict[str, Any]) -> dict[str, Any]:
    """The same without the clock of what has ended."""
    jobs = [_still(job) for job in found.get("jobs", ())]
    is_over = found.get("ended") is not None
    return {name: value for name, value in found.items() if name != "now" or not is_over} | {"jobs": jobs}
