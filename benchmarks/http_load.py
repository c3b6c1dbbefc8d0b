"""A load generator: requests over kept HTTP/1.1 connections, one under way on each. Only the standard library.

A protocol on asyncio's own loop with just enough of HTTP for servers that say how long their answers are: about 0.05 ms
of processor time for a request and its answer, where clients with everything take 0.3 to 0.7.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    """An answer that came whole."""

    status: int
    body: bytes


class HttpConnection(asyncio.Protocol):
    """One kept connection: `ask` sends a request and gives its answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._received = b""

    @classmethod
    async def open(cls, url: str) -> HttpConnection:
        """Connect to the host of an address."""
        address = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, address.hostname or "", address.port or 80)
        return connection

    async def ask(self, request: bytes) -> Answer:
        """Send a request, made by `request_bytes`, and wait for its answer. Raises `ConnectionError`."""
        if self._transport is None:
            raise ConnectionError("the server closed the connection")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Something came: an answer is whole when its head and as many bytes as that says are there."""
        self._received += data
        head, gap, rest = self._received.partition(b"\r\n\r\n")
        if not gap or self._waiting is None:
            return
        length = _length(head)
        if len(rest) < length:
            return
        self._received = rest[length:]
        waiting, self._waiting = self._waiting, None
        if not waiting.done():
            waiting.set_result(Answer(int(head[9:12]), rest[:length]))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._transport = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError(str(exc) or "the server closed the connection"))


Work = Callable[[HttpConnection, int], Awaitable[None]]
"""One piece of work over a connection, given its number: a request, or several one after the other."""


class Series(NamedTuple):
    """How long each piece of work took, and all of them together."""

    times_s: list[float]
    took_s: float

    @property
    def per_s(self) -> float:
        """Pieces of work in a second."""
        return len(self.times_s) / self.took_s


def request_bytes(
    method: str,
    url: str,
    path: str,
    headers: dict[str, str],
    body: bytes = b"",
    *,
    content_type: str = "application/json",
) -> bytes:
    """A request as it travels."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if method != "GET":
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def series(url: str, work: Work, *, count: int, connections: int) -> Series:
    """Do `count` pieces of work over so many connections; each takes the next one when it has done its last."""
    return asyncio.run(_series(url, work, count, connections))


async def _series(url: str, work: Work, count: int, connections: int) -> Series:
    numbers = iter(range(count))
    times_s: list[float] = []

    async def worker(connection: HttpConnection) -> None:
        for number in numbers:
            began = time.perf_counter()
            await work(connection, number)
            times_s.append(time.perf_counter() - began)

    opened = [await HttpConnection.open(url) for _ in range(connections)]
    try:
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for connection in opened:
                group.create_task(worker(connection))
        return Series(times_s, time.perf_counter() - began)
    finally:
        for connection in opened:
            connection.close()


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ConnectionError("the server does not say how long its answer is")
