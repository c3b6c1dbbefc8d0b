"""A line between a client and a service that breaks once, in the middle of what is sent, as lines do.

with cut_line(service.url, after_bytes=3_000_000) as line, Client(line.url, token) as client:
    ...
    assert line.cuts == 1
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from on_a_thread import serving

_PIECE = 64 * 1024
_AT_ONCE = struct.pack("ii", 1, 0)  # linger for no time: the other side sees a reset


@dataclass
class CutLine:
    """`cuts` is how often it broke."""

    url: str = ""
    cuts: int = 0


@contextlib.contextmanager
def cut_line(to: str, *, after_bytes: int) -> Iterator[CutLine]:
    """Pass on what is said with `to`; the first connection that sends more than `after_bytes` breaks there."""
    line, address = CutLine(), urlsplit(to)

    class Passing(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((str(address.hostname), address.port or 80)) as onward:
                back = threading.Thread(target=_pass_on, args=(onward, self.request), daemon=True)
                back.start()
                self._pass_on_or_break(onward)
                back.join(5.0)

        def _pass_on_or_break(self, onward: socket.socket) -> None:
            sent = 0
            with contextlib.suppress(OSError):
                while piece := self.request.recv(_PIECE):
                    sent += len(piece)
                    onward.sendall(piece)
                    if sent > after_bytes and not line.cuts:
                        line.cuts += 1
                        for each in (self.request, onward):
                            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                            each.shutdown(socket.SHUT_RDWR)
                        return
                onward.shutdown(socket.SHUT_WR)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Passing)
    line.url = f"http://127.0.0.1:{server.server_address[1]}"
    with serving(server):
        yield line


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
