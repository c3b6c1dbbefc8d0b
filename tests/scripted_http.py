"""A server that answers by a script: what a proxy, or a machine in trouble, may answer in the service's place."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from on_a_thread import serving

BREAK = 0
"""In the place of a status: close the connection without an answer."""

Step = tuple[int, Any]
"""A status and a body: JSON, or bytes as they are."""


@dataclass
class ScriptedServer:
    """`asked` has a line for each request so far, `last_ids` its Last-Event-ID, `bodies` what came with it; the last
    step of the script is repeated."""

    url: str
    asked: list[str] = field(default_factory=list)
    last_ids: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


@contextlib.contextmanager
def scripted_server(*script: Step) -> Iterator[ScriptedServer]:
    """Answer the first request with the first step, and so on."""
    state = ScriptedServer("")

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            state.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            state.asked.append(f"{self.command} {self.path}")
            state.last_ids.append(self.headers.get("Last-Event-ID", ""))
            self._answer(*script[min(len(state.asked), len(script)) - 1])

        def _answer(self, status: int, body: Any) -> None:
            self.close_connection = True
            if status == BREAK:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Connection", "close")
            # Whoever asked may have given up.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    with serving(server):
        yield state


def free_ports(count: int = 1) -> Sequence[int]:
    """Ports on which nobody listens at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
