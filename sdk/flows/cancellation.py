"""Asking a run to end, from a signal handler or another thread; and waits that such a request ends at once."""

from __future__ import annotations

import contextlib
import enum
import select
import socket
import time
from types import TracebackType


class Wish(enum.IntEnum):
    """How a run is to end; who wishes again gets no less."""

    NONE = 0
    CANCEL = 1
    """Cancel the running action, and end the run as cancelled."""
    LEAVE = 2
    """Stop at once and leave everything as it is: the run log can be resumed."""


class Woken(enum.Enum):
    """What ended a wait."""

    BY_TIME = enum.auto()
    BY_WISH = enum.auto()
    BY_KEY = enum.auto()


class Cancellation:
    """A request to end. It may be made from a signal handler: neither lock nor memory stands in its way."""

    def __init__(self) -> None:
        self.wish = Wish.NONE
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)

    def __enter__(self) -> Cancellation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back what it holds."""
        self._inside.close()
        self._outside.close()

    def request(self, wish: Wish = Wish.CANCEL) -> None:
        """Ask for an end."""
        self.wish = max(self.wish, wish)
        with contextlib.suppress(OSError):  # it is full, or closed: nobody needs waking any more
            self._outside.send(b"!")

    def wait(self, seconds: float, *, beyond: Wish = Wish.NONE, key: int | None = None) -> Woken:
        """Wait so long, or until more than `beyond` is wished, or until the file `key` can be read."""
        until = time.monotonic() + seconds
        while self.wish <= beyond:
            left = until - time.monotonic()
            if left <= 0:
                return Woken.BY_TIME
            watched: list[socket.socket | int] = [self._inside] if key is None else [self._inside, key]
            ready, _, _ = select.select(watched, [], [], min(left, 3600.0))
            if key is not None and key in ready:
                return Woken.BY_KEY
            with contextlib.suppress(OSError):
                self._inside.recv(64)
        return Woken.BY_WISH
