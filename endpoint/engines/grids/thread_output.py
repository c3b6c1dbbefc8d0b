"""What a thread prints: standard output and error that know which thread writes."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

from headrace.bus.tasks.bundles import LogEnd
from headrace.endpoint.engines.grids.grid import Piece

_TAIL_BYTES = 64 * 1024

_here = threading.local()


class Capture:
    """What one call prints: its beginning and its end, as far as `limit` allows; what lies between is cut."""

    def __init__(self, limit: int) -> None:
        self._tail_bytes = min(_TAIL_BYTES, limit // 8)
        self._head_left = limit - 2 * self._tail_bytes
        self._heads = (bytearray(), bytearray())
        self._tails = (bytearray(), bytearray())
        self._written = [0, 0]
        self._run = time.time_ns() // 1000

    def write(self, stream: int, data: bytes) -> None:
        """Take what was printed."""
        self._written[stream] += len(data)
        head = data[: self._head_left]
        self._head_left -= len(head)
        self._heads[stream].extend(head)
        rest = data[len(head) :]
        if rest:
            tail = self._tails[stream]
            tail += rest
            del tail[: -self._tail_bytes]

    @property
    def end(self) -> LogEnd | None:
        """How much it was, None if nothing."""
        return LogEnd(self._run, *self._written) if any(self._written) else None

    def pieces(self, attempt: int) -> list[Piece]:
        """All that is kept."""
        now = time.time()
        found = []
        for stream in (0, 1):
            head, tail = self._heads[stream], self._tails[stream]
            for offset, data in ((0, head), (self._written[stream] - len(tail), tail)):
                if data:
                    found.append((stream, self._run, attempt, offset, now, bytes(data)))
        return found


@contextlib.contextmanager
def captured(limit: int) -> Iterator[Capture]:
    """Keep what this thread prints meanwhile; nothing where the limit is 0."""
    capture = Capture(limit)
    if limit:
        _listen()
        _here.capture = capture
    try:
        yield capture
    finally:
        _here.capture = None


def _listen() -> None:
    """Tell threads apart, also after somebody has put other streams in their place. What no call prints goes where it
    went before."""
    if type(sys.stdout) is not _Stream:
        sys.stdout = _Stream(0, sys.stdout)
    if type(sys.stderr) is not _Stream:
        sys.stderr = _Stream(1, sys.stderr)


class _Stream(io.TextIOBase):
    """A standard stream; `sys.stdout.buffer` and descriptors are those of the process."""

    def __init__(self, number: int, before: TextIO) -> None:
        super().__init__()
        self._number = number
        self._before = before

    def write(self, text: str, /) -> int:
        capture: Capture | None = getattr(_here, "capture", None)
        if capture is None:
            return self._before.write(text)
        capture.write(self._number, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        self._before.flush()

    def writable(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._before, name)
