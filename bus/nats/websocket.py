"""NATS's protocol in WebSocket frames (RFC 6455), where only HTTP gets through.

`Frames` takes what comes out of the frames and gives it to the reader of NATS's protocol, `FrameWriter` puts what is
written into them. Neither knows where NATS's messages begin: frames and messages may overlap in any way.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from headrace.bus.errors import ProtocolBroken

CONTINUED: Final = 0x0
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

BUFFER_BYTES: Final = 64 * 1024
DIRECT_BYTES: Final = 4 * 1024
"""From here on what is still to come of a frame is read into the memory of the reader behind it."""

_LAST: Final = 0x80
_MASKED: Final = 0x80
_SHORT: Final = 126
_LONG: Final = 127
_CONTROL_BYTES: Final = 125
_PIECE_BYTES: Final = 4096
_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_NORMAL_END: Final = (1000).to_bytes(2, "big")


class Intake(Protocol):
    """Takes what is read: into `space()`, so much of it as `filled` says."""

    def space(self) -> memoryview: ...

    def filled(self, count: int) -> None: ...


class Frames:
    """An intake for a server's frames; `on_control` gets the kind and the content of those that are no data."""

    def __init__(self, data: Intake, on_control: Callable[[int, bytes], None]) -> None:
        self._data = data
        self._on_control = on_control
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._end = 0
        self._left = 0
        """How much of the data frame in hand has not come."""
        self._unfinished = False

    def space(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._is_direct:
            return self._data.space()[: self._left]
        return self._view[self._end :]

    def filled(self, count: int) -> None:
        """So many bytes were put into `space()`. Raises `ProtocolBroken`."""
        if self._is_direct:
            self._left -= count
            self._data.filled(count)
            return
        end, start = self._end + count, 0
        while start < end:
            if self._left:
                taken = min(self._left, end - start)
                self._left -= taken
                feed(self._data, self._view[start : start + taken])
            else:
                taken = self._take_head(start, end)
                if not taken:
                    break
            start += taken
        # What is left is the beginning of a head, or of a control frame.
        self._end = end - start
        if start and self._end:
            self._buffer[: self._end] = self._buffer[start:end]

    @property
    def _is_direct(self) -> bool:
        return self._left >= DIRECT_BYTES and not self._end

    def _take_head(self, start: int, end: int) -> int:
        """Take the head of a frame, or a control frame whole; how many bytes that were, 0 when more must come."""
        if end - start < 2:
            return 0
        first, second = self._buffer[start], self._buffer[start + 1]
        kind, length, size = first & 0x0F, second & 0x7F, 2
        if first & 0x70 or second & _MASKED:
            raise ProtocolBroken("a WebSocket frame that a server may not send")
        if kind & 0x8:
            return self._take_control(kind, bool(first & _LAST), start, end, length)
        if length >= _SHORT:
            size = 4 if length == _SHORT else 10
            if end - start < size:
                return 0
            length = int.from_bytes(self._buffer[start + 2 : start + size], "big")
        if kind != (CONTINUED if self._unfinished else BINARY):
            raise ProtocolBroken(f"a WebSocket frame of kind {kind} out of place")
        self._unfinished = not first & _LAST
        self._left = length
        return size

    def _take_control(self, kind: int, whole: bool, start: int, end: int, length: int) -> int:
        if length > _CONTROL_BYTES or not whole:
            raise ProtocolBroken("a WebSocket control frame that is too long")
        if end - start < 2 + length:
            return 0
        self._on_control(kind, bytes(self._view[start + 2 : start + 2 + length]))
        return 2 + length


class FrameWriter:
    """What a link uses of a transport, with all that is written put into frames."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._ended = False

    def write(self, data: bytes) -> None:
        """Send data."""
        self._transport.write(frame(BINARY, data))

    def writelines(self, pieces: Iterable[bytes]) -> None:
        """Send several pieces as one."""
        self.write(b"".join(pieces))

    def answer(self, kind: int, content: bytes) -> None:
        """Answer a control frame, if it wants an answer."""
        if kind == PING:
            self._transport.write(frame(PONG, content))
        elif kind == CLOSE:
            self._say_end(content[:2])

    def close(self) -> None:
        """Say the end, send what waits, and disconnect."""
        self._say_end(_NORMAL_END)
        self._transport.close()

    def abort(self) -> None:
        """Disconnect at once."""
        self._transport.abort()

    def set_write_buffer_limits(self, high: int) -> None:
        """How many bytes may wait before the protocol is asked to pause."""
        self._transport.set_write_buffer_limits(high)

    def _say_end(self, content: bytes) -> None:
        if not self._ended:
            self._ended = True
            self._transport.write(frame(CLOSE, content))


def frame(kind: int, content: bytes) -> bytes:
    """One whole frame, masked as a client's must be."""
    size, key = len(content), os.urandom(4)
    if size < _SHORT:
        head = struct.pack("!BB", _LAST | kind, _MASKED | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", _LAST | kind, _MASKED | _SHORT, size)
    else:
        head = struct.pack("!BBQ", _LAST | kind, _MASKED | _LONG, size)
    return b"".join((head, key, masked(content, key)))


def masked(content: bytes, key: bytes) -> bytes:
    """The content under a mask of four bytes; done twice, it is the content again."""
    # As large numbers: byte by byte a megabyte would take fifty times as long. In pieces that the processor's cache
    # holds, twice as fast as in one.
    if len(content) <= _PIECE_BYTES:
        return _masked_piece(content, int.from_bytes((key * (len(content) // 4 + 1))[: len(content)], "little"))
    mask = int.from_bytes(key * (_PIECE_BYTES // 4), "little")
    whole = len(content) - len(content) % _PIECE_BYTES
    pieces = [_masked_piece(content[at : at + _PIECE_BYTES], mask) for at in range(0, whole, _PIECE_BYTES)]
    return b"".join((*pieces, masked(content[whole:], key)))


def _masked_piece(piece: bytes, mask: int) -> bytes:
    return (int.from_bytes(piece, "little") ^ mask).to_bytes(len(piece), "little")


def feed(intake: Intake, data: memoryview) -> None:
    """Put all of this into an intake."""
    while data:
        space = intake.space()
        count = min(len(space), len(data))
        space[:count] = data[:count]
        intake.filled(count)
        data = data[count:]


def new_key() -> str:
    """What names one handshake."""
    return base64.b64encode(os.urandom(16)).decode()


def upgrade_request(url: str, key: str) -> bytes:
    """The request that turns a connection into a WebSocket."""
    parts = urlsplit(url)
    path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {parts.netloc.rpartition('@')[2]}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def accepts(key: str, answer: str) -> bool:
    """Whether a server's `Sec-WebSocket-Accept` is an answer to this key."""
    digest = hashlib.sha1(f"{key}{_GUID}".encode(), usedforsecurity=False).digest()
    return answer == base64.b64encode(digest).decode()


def end_text(content: bytes) -> str:
    """What a close frame says, for people."""
    code = int.from_bytes(content[:2], "big") if len(content) >= 2 else 1005
    text = content[2:].decode("utf-8", "replace")
    return f"the server closed the WebSocket ({code}{': ' if text else ''}{text})"
