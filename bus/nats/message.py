"""What comes from the bus, as whoever asked for it gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it came. `headers` has at least "Status" when the server answers instead of a peer."""

    subject: str
    data: bytes
    reply: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The server's status code, or 0 when this is an ordinary message."""
        return int(self.headers.get("Status", "0") or 0) if self.headers else 0


def parse_headers(raw: bytes) -> Mapping[str, str]:
    """The headers of a message; the status line's code and text are "Status" and "Description"."""
    if not raw:
        return _NO_HEADERS
    first, *lines = raw.decode("utf-8", "replace").split("\r\n")
    headers: dict[str, str] = {}
    _, _, status = first.partition(" ")
    if status:
        headers["Status"], _, description = status.strip().partition(" ")
        if description:
            headers["Description"] = description.strip()
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name] = value.strip()
    return headers


def headers_block(headers: Mapping[str, str]) -> bytes:
    """Headers as they travel. Raises `ValueError` for what a line cannot hold."""
    block = "NATS/1.0\r\n"
    for name, value in headers.items():
        line = f"{name}: {value}"
        if not name or ":" in name or "\r" in line or "\n" in line:
            raise ValueError(f"not a header: {name!r}: {value!r}")
        block += line + "\r\n"
    return (block + "\r\n").encode()
