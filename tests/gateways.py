"""What stands between machines: a proxy that takes CONNECT, and a door that ends TLS. Small, on a loop of their own.

with Gateway() as proxy, Gateway(tls=certificate, target=("127.0.0.1", 80)) as door:
    proxy.url
    proxy.asked        # what it was asked to connect to
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

from certificates import Certificate

T = TypeVar("T")

_WITHIN_S = 20.0


class Gateway:
    """Passes bytes on, to `target` or, without one, to whatever a CONNECT asks for; `user` is "name:password" where
    it demands one. With `tls` it speaks TLS. With `names` it knows hosts under other names, as a proxy may.
    With `hold_at` it passes nothing of a connection on any more once a client says that: `held` is set then."""

    def __init__(
        self,
        *,
        tls: Certificate | None = None,
        target: tuple[str, int] | None = None,
        user: str | None = None,
        names: dict[str, str] | None = None,
        hold_at: bytes = b"",
    ) -> None:
        self.asked: list[str] = []
        self.target = target
        self._user = user
        self._names = names or {}
        self._hold_at = hold_at
        self.held = threading.Event()
        self._context = None
        if tls is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(tls.cert, tls.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where it is, as a proxy."""
        start = "https://" if self._context else "http://"
        return f"{start}{self._user}@localhost:{self.port}" if self._user else f"{start}localhost:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(self._listen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_WITHIN_S)
        self._loop.close()

    def cut(self) -> None:
        """End all connections."""
        self._run(self._cut)

    def _run(self, work: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_WITHIN_S)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, sock=self._listener, ssl=self._context)

    async def _close(self) -> None:
        self._server.close()
        await self._cut()

    async def _cut(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            target = self.target or await self._connect_target(reader, writer)
            if target is None:
                return
            there, back = await asyncio.open_connection(*target)
            writers.append(back)
            if self.target is None:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(self._pass_on(reader, back), _copy(there, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for each in writers:
                each.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._hold_at:
            await _copy(reader, writer)
            return
        while piece := await reader.read(65536):
            if self._hold_at in piece:
                self.held.set()
                await reader.read()  # until the client has gone
                break
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def _connect_target(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int] | None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked = head.split()[1].decode()
        self.asked.append(asked)
        if self._user is not None:
            wanted = b"Proxy-Authorization: Basic " + base64.b64encode(self._user.encode())
            if wanted not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                await writer.drain()
                writer.close()
                await writer.wait_closed()
                return None
        host, _, port = asked.rpartition(":")
        return self._names.get(host, host), int(port)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()


def closed_port() -> int:
    """A port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
