"""JSON over one kept connection of the standard library's HTTP client, which costs least: one after the other."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, Self
from urllib.parse import urlsplit

from benchmarks.systems.headrace import Headrace

LIMIT_S = 10.0


class Asking:
    """Requests to a running Headrace. Raises `ValueError` for an answer that is not the one expected."""

    def __init__(self, system: Headrace) -> None:
        address = urlsplit(system.ready["url"])
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=LIMIT_S)
        self._headers = {"Authorization": f"Bearer {system.ready['token']}"}

    def __enter__(self) -> Self:
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        accepted: tuple[int, ...] = (200,),
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Send a request and read its answer, which is JSON."""
        document: dict[str, Any] = json.loads(self.text(method, path, body, accepted, content_type))
        return document

    def text(
        self,
        method: str,
        path: str,
        body: Any = None,
        accepted: tuple[int, ...] = (200,),
        content_type: str = "application/json",
    ) -> str:
        """Likewise, whatever the answer is."""
        headers = self._headers if body is None else {**self._headers, "Content-Type": content_type}
        data = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, data, headers)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        if answer.status not in accepted:
            raise ValueError(f"{method} {path} was answered with {answer.status}: {text[:300]}")
        return text
