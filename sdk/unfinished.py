"""The futures of one executor that have not ended, and how many of them there may be."""

from __future__ import annotations

import threading
from collections.abc import Callable

from headrace.sdk.future import TaskFuture
from headrace.sdk.limits import Room, WhenFull


class Unfinished:
    """Futures from `add` until they end. Any thread. `on_idle` is called when the last one has ended.

    It holds each of them: whoever submits and forgets gets the callbacks, and `shutdown` waits for all.
    """

    def __init__(self, most: int | None, on_idle: Callable[[], None]) -> None:
        self._room = None if most is None else Room(_full_text, most_tasks=most)
        self._on_idle = on_idle
        self._futures: set[TaskFuture] = set()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def __len__(self) -> int:
        return len(self._futures)

    def add(self, future: TaskFuture, when_full: WhenFull, check: Callable[[], None]) -> None:
        """Take a future in, once there is room for it. Raises `QueueFull`, and what `check` raises."""
        if self._room is not None:
            self._room.take(0, when_full, check)
        self._hold(future)

    def add_anyway(self, future: TaskFuture) -> None:
        """Take in the future of a task that exists already."""
        if self._room is not None:
            self._room.give(-1, 0)
        self._hold(future)

    def ended(self, future: TaskFuture) -> None:
        """A future has ended, or there will be no task for it."""
        with self._lock:  # of the condition, whose own way in takes five times as long
            if future not in self._futures:
                return
            self._futures.discard(future)
            idle = not self._futures
            if idle:
                self._changed.notify_all()
        if self._room is not None:
            self._room.give(1, 0)
        if idle:
            self._on_idle()

    def snapshot(self) -> list[TaskFuture]:
        """Those that have not ended at this moment."""
        with self._changed:
            return list(self._futures)

    def wait(self) -> None:
        """Wait until all have ended."""
        with self._changed:
            while self._futures:
                self._changed.wait(1.0)  # not for ever at once: Windows would not hear Ctrl-C

    def wake(self) -> None:
        """Have everybody who waits for room look again."""
        if self._room is not None:
            self._room.wake()

    def _hold(self, future: TaskFuture) -> None:
        future._owner = self
        with self._lock:
            self._futures.add(future)


def _full_text(tasks: int, _: int) -> str:
    return (
        f"{tasks} tasks of this executor are unfinished, and its max_unfinished allows no more: take results before you"
        " submit again, or raise the limit"
    )
