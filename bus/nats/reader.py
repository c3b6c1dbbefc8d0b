"""Reads NATS's protocol from memory that the kernel writes into.

    small messages   are taken out of one buffer, as many as one read brought
    large ones       get memory of their own size, which the kernel fills directly

so that a message of a megabyte is copied once, and no task, queue or timer stands between the socket and who waits.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.bus.errors import ProtocolBroken

BUFFER_BYTES = 64 * 1024
LARGE_BYTES = 16 * 1024

OnMessage = Callable[[int, str, str, bytes, bytes], None]
"""Gets the subscription's number, subject, reply subject, raw headers and data."""
OnWord = Callable[[bytes], None]
"""Gets a line that is no message: `INFO {…}`, `PING`, `PONG`, `+OK`, `-ERR '…'`."""


class Reader:
    """Fill `space()` and say how much with `filled`; what is whole then goes to the callbacks."""

    def __init__(self, on_message: OnMessage, on_word: OnWord) -> None:
        self._on_message = on_message
        self._on_word = on_word
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._large: memoryview | None = None
        self._large_head: list[bytearray] = []
        self._large_end = 0

    def space(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._large is not None:
            return self._large[self._large_end :]
        return self._view[self._end :]

    def filled(self, count: int) -> None:
        """So many bytes were put into `space()`. Raises `ProtocolBroken`."""
        if self._large is None:
            self._end += count
            self._take_all()
            return
        self._large_end += count
        if self._large_end == len(self._large):
            message, self._large = self._large, None
            self._tell(self._large_head, message[:-2])

    def _take_all(self) -> None:
        buffer, end = self._buffer, self._end
        while self._start < end:
            line_end = buffer.find(b"\r\n", self._start, end)
            if line_end < 0 or not self._take(line_end, end):
                break
        if self._start == end:
            self._start = self._end = 0
        elif self._start > 0 and BUFFER_BYTES - end < LARGE_BYTES * 2:
            # No room for the rest of what has begun: to the front with it.
            rest = end - self._start
            buffer[:rest] = buffer[self._start : end]
            self._start, self._end = 0, rest
        if self._end == BUFFER_BYTES:
            raise ProtocolBroken(f"a line of more than {BUFFER_BYTES} bytes")

    def _take(self, line_end: int, end: int) -> bool:
        """Take what begins with this line; whether all of it was there."""
        line, after = self._buffer[self._start : line_end], line_end + 2
        if not line.startswith((b"MSG ", b"HMSG ")):
            self._start = after
            self._on_word(bytes(line))
            return True
        head = line.split()
        try:
            size = int(head[-1])
        except ValueError:
            raise ProtocolBroken(f"not a message: {bytes(line[:80])!r}") from None
        if end - after >= size + 2:
            self._start = after + size + 2
            self._tell(head, self._view[after : after + size])
            return True
        if size >= LARGE_BYTES:
            self._large_head, self._large = head, memoryview(bytearray(size + 2))
            self._large_end = end - after
            self._large[: self._large_end] = self._view[after:end]
            self._start = end
        return False

    def _tell(self, head: list[bytearray], content: memoryview) -> None:
        has_headers = head[0] == b"HMSG"
        try:
            split = int(head[-2]) if has_headers else 0
            reply = head[3].decode() if len(head) == (6 if has_headers else 5) else ""
            subscription, subject = int(head[2]), head[1].decode()
        except (ValueError, IndexError):
            raise ProtocolBroken(f"not a message: {b' '.join(head)[:80]!r}") from None
        self._on_message(subscription, subject, reply, bytes(content[:split]), bytes(content[split:]))
