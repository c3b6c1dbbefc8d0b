"""The benchmark's load generator: answers come whole, each to its request, over as many connections as asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import ClassVar

import pytest

from benchmarks.http_load import HttpConnection, request_bytes, series


class Echo(asyncio.Protocol):
    """Answers with the request's path, in two pieces, and counts connections."""

    connections: ClassVar[int] = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Echo.connections += 1
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        path = data.split(b" ")[1]
        if path == b"/bye":
            self._transport.close()
            return
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path[:1]))
        self._transport.write(path[1:])


@pytest.fixture
def url() -> Iterator[str]:
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, name="echo")
    thread.start()
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    server.close()
    loop.run_until_complete(asyncio.sleep(0))  # no time: the closed sockets are let go
    loop.close()


def test_each_request_gets_its_own_answer(url: str) -> None:
    answers: dict[int, bytes] = {}
    before = Echo.connections

    async def ask(connection: HttpConnection, number: int) -> None:
        answer = await connection.ask(request_bytes("GET", url, f"/{number}", {}))
        assert answer.status == 200
        answers[number] = answer.body

    done = series(url, ask, count=100, connections=7)

    assert answers == {number: b"/%d" % number for number in range(100)}
    assert len(done.times_s) == 100
    assert Echo.connections - before == 7


def test_a_server_that_hangs_up_is_told_of(url: str) -> None:
    async def ask(connection: HttpConnection, number: int) -> None:
        await connection.ask(request_bytes("GET", url, "/bye", {}))

    with pytest.raises(ExceptionGroup) as caught:
        series(url, ask, count=1, connections=1)

    assert caught.group_contains(ConnectionError)
