"""Server-sent events as an answer, which ends when its events end, its reader goes, or the reader stops to read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE = b": still here\n\n"
"""A comment, which readers pass over."""

_READER_S = 60.0
"""How long a reader may take to take what was sent."""


class Places:
    """So many of something, and no more, at a time."""

    def __init__(self, most: int) -> None:
        self.free = most

    def take(self) -> bool:
        """Take a place, if there is one."""
        if self.free <= 0:
            return False
        self.free -= 1
        return True

    def give_back(self) -> None:
        """Give it back."""
        self.free += 1


def event(name: str, data: object, event_id: str = "") -> bytes:
    """One event with JSON data, in its form on the wire."""
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}event: {name}\ndata: ".encode() + msgspec.json.encode(data) + b"\n\n"


class EventStream(Response):
    """An answer made of events. `events` is closed, whatever ends the answer; `on_end` is called last."""

    def __init__(self, events: AsyncGenerator[bytes, None], on_end: Callable[[], None]) -> None:
        super().__init__(media_type=MEDIA_TYPE, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        pumping = asyncio.create_task(self._pump(scope, send), name="send events")
        leaving = asyncio.create_task(_left(receive), name="the reader leaves")
        try:
            await asyncio.wait((pumping, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (pumping, leaving):
                task.cancel()
            await asyncio.wait((pumping, leaving))
            self._on_end()
        if not pumping.cancelled():
            with contextlib.suppress(TimeoutError, OSError):  # a reader that does not read any more
                pumping.result()

    async def _pump(self, scope: Scope, send: Send) -> None:
        async with contextlib.aclosing(self._events) as events:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope["method"] != "HEAD":
                async for data in events:
                    async with asyncio.timeout(_READER_S):
                        await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
