"""What stands between machines: a proxy that takes CONNECT, and a door that ends TLS. Small, on threads.

with Gateway() as proxy, Gateway(tls=certificate, target=("127.0.0.1", 80)) as door:
    proxy.url
    proxy.asked        # what it was asked to connect to
"""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from types import TracebackType
from typing import Self

from certificates import Certificate

_WITHIN_S = 20.0


class Gateway:
    """Passes bytes on, to `target` or, without one, to whatever a CONNECT asks for; `user` is "name:password" where
    it demands one. With `tls` it speaks TLS. With `names` it knows hosts under other names, as a proxy may."""

    def __init__(
        self,
        *,
        tls: Certificate | None = None,
        target: tuple[str, int] | None = None,
        user: str | None = None,
        names: dict[str, str] | None = None,
    ) -> None:
        self.asked: list[str] = []
        self._target = target
        self._user = user
        self._names = names or {}
        self._context = None
        if tls is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(tls.cert, tls.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        """Where it is, as a proxy."""
        start = "https://" if self._context else "http://"
        return f"{start}{self._user}@localhost:{self.port}" if self._user else f"{start}localhost:{self.port}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(_WITHIN_S)

    def cut(self) -> None:
        """End all connections."""
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _start(self, work: object, *arguments: object) -> threading.Thread:
        assert callable(work)
        thread = threading.Thread(target=work, args=arguments, name="gateway", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            client.settimeout(_WITHIN_S)
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
            stack.enter_context(client)
            target = self._target or self._connect_target(client)
            if target is None:
                return
            upstream = stack.enter_context(socket.create_connection(target))
            if self._target is None:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self._open |= {client, upstream}
            try:
                back = self._start(_copy, upstream, client)
                _copy(client, upstream)
                back.join(_WITHIN_S)
            finally:
                self._open -= {client, upstream}

    def _connect_target(self, client: socket.socket) -> tuple[str, int] | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = client.recv(1)
            if not piece:
                return None
            head += piece
        words = head.split()
        self.asked.append(words[1].decode())
        if self._user is not None:
            wanted = b"Proxy-Authorization: Basic " + base64.b64encode(self._user.encode())
            if wanted not in head:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                return None
        host, _, port = words[1].decode().rpartition(":")
        return self._names.get(host, host), int(port)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        source.settimeout(None)
        while piece := source.recv(65536):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def closed_port() -> int:
    """A port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
