"""A server that takes what is sent to it: what a sink is, for tests. It answers as the test says."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from on_a_thread import serving


@dataclass(frozen=True)
class Received:
    """A request; names of headers are in small letters."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


Reply = tuple[int, Mapping[str, str], bytes]


def accepted(_request: Received) -> Reply:
    """What a sink says that has taken it."""
    return 202, {}, b""


@dataclass
class Receiver:
    """What came, and what is answered."""

    url: str
    answer: Callable[[Received], Reply] = accepted
    received: list[Received] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def posts(self) -> list[Received]:
        """The events' requests."""
        return [each for each in self.received if each.method == "POST"]


@contextlib.contextmanager
def receiver(
    answer: Callable[[Received], Reply] = accepted, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[Receiver]:
    """A server on a free port of the loopback."""
    state = Receiver("", answer)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _take(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Received(self.command, self.path, headers, body, time.monotonic())
            with state.lock:
                state.received.append(request)
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
            try:
                status, more, data = state.answer(request)
            finally:
                with state.lock:
                    state.at_once -= 1
            with contextlib.suppress(OSError):  # whoever asked may have given up
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        do_POST = do_OPTIONS = do_GET = _take  # noqa: N815 - the library's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that does not like our certificate, or has gone

    server = Server((host, 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    state.url = f"{'https' if tls else 'http'}://localhost:{server.server_address[1]}/events"
    with serving(server):
        yield state
