"""Answers leave in one piece: uvicorn writes head and body one after the other, and each is a call of the system."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MOST_BYTES: Final = 64 * 1024
"""What is larger leaves at once: whoever writes much must come to feel when too much is on its way."""


class WholeAnswers(HttpToolsProtocol):
    """uvicorn's HTTP over a transport that joins what is written in one turn of the loop."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client has connected."""
        super().connection_made(_Joined(transport, self.loop))


class _Joined(asyncio.Transport):
    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._written: list[bytes] = []
        self._size = 0

    def write(self, data: Any) -> None:
        if not self._written:
            self._loop.call_soon(self._write_out)
        self._written.append(data)
        self._size += len(data)
        if self._size >= _MOST_BYTES:
            self._write_out()

    def _write_out(self) -> None:
        written, self._written, self._size = self._written, [], 0
        if written:
            self._transport.write(written[0] if len(written) == 1 else b"".join(written))

    def close(self) -> None:
        self._write_out()
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)
