"""Wait for a condition instead of sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

# Looks are frequent at first, and then as far apart as a twentieth of the time that has passed: a look is often a
# request, and many of them keep what they wait for from its work.
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S, _PAUSE_SHARE = 0.002, 0.05, 0.05

# On a machine with much else to do everything takes longer: deadlines say what a quiet one needs, and find what hangs.
_PATIENCE = 4.0

T = TypeVar("T")


def eventually(condition: Callable[[], T], within_s: float = 5.0, message: str = "") -> T:
    """The first true value of `condition()`; an `AssertionError` inside it counts as not yet.

    `within_s` is ample on a quiet machine; it takes four times as long before it raises
    `AssertionError`, with the last error of the condition as its cause.
    """
    tries = _Tries(condition, within_s, message)
    while (value := tries.next()) is None:
        time.sleep(tries.pause_s)
    return value


async def eventually_async(condition: Callable[[], T], within_s: float = 5.0, message: str = "") -> T:
    """`eventually` that lets the event loop run between the tries."""
    tries = _Tries(condition, within_s, message)
    while True:
        if (value := tries.next()) is not None:
            return value
        await asyncio.sleep(tries.pause_s)


async def eventually_answered(ask: Callable[[], Awaitable[T]], within_s: float = 5.0, message: str = "") -> T:
    """`eventually` for what is asked of a bus or another process: the first true answer."""
    answer: T | None = None
    tries = _Tries(lambda: answer, within_s, message)
    while True:
        answer = await ask()
        if (value := tries.next()) is not None:
            return value
        await asyncio.sleep(tries.pause_s)


def let_pass(seconds: float, until: str) -> None:
    """Let time itself pass: only for what nothing but time brings, such as the end of a limit. `until` says what."""
    assert until, "say what only time brings"
    time.sleep(seconds)


class _Tries(Generic[T]):
    """One look at a condition after the other, until the time is over."""

    def __init__(self, condition: Callable[[], T], within_s: float, message: str) -> None:
        self._condition, self._within_s, self._message = condition, within_s, message
        self._began = time.monotonic()

    @property
    def pause_s(self) -> float:
        """How long to wait before the next look."""
        passed_s = time.monotonic() - self._began
        return min(max(_SHORTEST_PAUSE_S, _PAUSE_SHARE * passed_s), _LONGEST_PAUSE_S)

    def next(self) -> T | None:
        """The condition's value where it is true. Raises `AssertionError` when that was the last look."""
        error = None
        try:
            value = self._condition() or None
        except AssertionError as raised:
            value, error = None, raised
        if value is None and time.monotonic() - self._began > _PATIENCE * self._within_s:
            cause = f"; the last try raised {error!r}" if error else ""
            what = self._message or "the condition"
            raise AssertionError(f"{what} did not come true within {_PATIENCE * self._within_s:g} s{cause}") from error
        return value
