"""Back-pressure: how much a client may hold, and what a submission does that finds no room.

Room        so many tasks and bytes; a submission takes room, and what was sent or has ended gives it back
WhenFull    wait for room (perhaps only for a while), or raise `QueueFull`
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headrace.sdk.errors import QueueFull
from headrace.sdk.loop import on_loop_thread

MOST_UNSENT_TASKS = 20_000
MOST_UNSENT_BYTES = 64 * 1024 * 1024
"""What one outbox holds that the bus has not stored yet."""

_LOOK_S = 1.0
"""Windows does not interrupt a wait for Ctrl-C: so long at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhenFull:
    """What a submission does that finds no room. `timeout_s`: how long it waits; None: as long as it takes."""

    raises: bool = False
    timeout_s: float | None = None

    @property
    def name(self) -> str:
        """The argument `when_full` that says this."""
        return "raise" if self.raises else "block"

    @classmethod
    def of(cls, when_full: str, timeout_s: float | None) -> WhenFull:
        """From the arguments of an `Executor`. Raises `ValueError` and `TypeError`, naming the argument."""
        if when_full not in ("block", "raise"):
            raise ValueError(f"when_full is 'block' or 'raise', not {when_full!r}")
        if timeout_s is not None:
            if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
                raise TypeError(f"full_timeout_s is a number of seconds or None, not {timeout_s!r}")
            if not timeout_s >= 0:
                raise ValueError(f"full_timeout_s is at least 0, not {timeout_s!r}")
        return cls(raises=when_full == "raise", timeout_s=None if timeout_s is None else float(timeout_s))


BLOCK = WhenFull()


def most_unfinished(value: Any) -> int | None:
    """The argument `max_unfinished` of an `Executor`. Raises `TypeError` and `ValueError`."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"max_unfinished is a whole number or None, not {value!r}")
    if value < 1:
        raise ValueError(f"max_unfinished is at least 1, not {value}")
    return value


class Room:
    """Room for so many tasks and bytes (None: no limit). Any thread.

    There is room while neither limit is reached, so one task that alone is larger than the limit passes as well.
    `full(tasks, size)` says in one sentence what is full; it is the text of `QueueFull`.
    """

    def __init__(
        self, full: Callable[[int, int], str], *, most_tasks: int | None = None, most_bytes: int | None = None
    ) -> None:
        self._full = full
        self._most_tasks = most_tasks
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0
        self.tasks = 0
        self.size = 0

    @property
    def is_free(self) -> bool:
        """Whether one more task finds room."""
        return (self._most_tasks is None or self.tasks < self._most_tasks) and (
            self._most_bytes is None or self.size < self._most_bytes
        )

    def take(self, size: int, when_full: WhenFull, check: Callable[[], None]) -> None:
        """Take room for one task. Waits for it as `when_full` says; `check` is called whenever it looks again.

        On the loop thread it never waits, since whatever makes room happens there: a task that is submitted in a
        callback of a future is taken in beyond the limit. Raises `QueueFull`, and what `check` raises.
        """
        with self._lock:  # of the condition, whose own way in takes five times as long
            if not self.is_free:
                self._wait(when_full, check)
            self.tasks += 1
            self.size += size

    def give(self, tasks: int, size: int) -> None:
        """Give room back."""
        with self._changed:
            self.tasks -= tasks
            self.size -= size
            if self._waiting and self.is_free:
                self._changed.notify_all()

    def wait_empty(self, within_s: float) -> bool:
        """Wait until nothing is held any more, so long at most; whether that is so."""
        end = time.monotonic() + within_s
        with self._changed:
            self._waiting += 1
            try:
                while self.tasks > 0 and (left_s := end - time.monotonic()) > 0:
                    self._changed.wait(min(_LOOK_S, left_s))
                return self.tasks <= 0
            finally:
                self._waiting -= 1

    def wake(self) -> None:
        """Have everybody who waits look again."""
        with self._changed:
            self._changed.notify_all()

    def _wait(self, when_full: WhenFull, check: Callable[[], None]) -> None:
        if when_full.raises:
            raise self._error(None)
        if on_loop_thread():
            return
        end = None if when_full.timeout_s is None else time.monotonic() + when_full.timeout_s
        self._waiting += 1
        try:
            while not self.is_free:
                left_s = _LOOK_S if end is None else min(_LOOK_S, end - time.monotonic())
                if left_s <= 0:
                    raise self._error(when_full.timeout_s)
                self._changed.wait(left_s)
                check()
        finally:
            self._waiting -= 1

    def _error(self, waited_s: float | None) -> QueueFull:
        waited = "" if waited_s is None else f", still so after {waited_s:g} s"
        return QueueFull(f"{self._full(self.tasks, self.size)}{waited}", limit=self._most_tasks, used=self.tasks)
