"""Wait for a condition instead of sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

_POLL_S = 0.002

T = TypeVar("T")


def eventually(condition: Callable[[], T], within_s: float = 5.0, message: str = "") -> T:
    """The first true value of `condition()`; an `AssertionError` inside it counts as not yet.

    Raises `AssertionError` when the time is over, with the last error of the condition as its cause.
    """
    tries = _Tries(condition, within_s, message)
    while (value := tries.next()) is None:
        time.sleep(_POLL_S)
    return value


async def eventually_async(condition: Callable[[], T], within_s: float = 5.0, message: str = "") -> T:
    """`eventually` that lets the event loop run between the tries."""
    tries = _Tries(condition, within_s, message)
    while True:
        if (value := tries.next()) is not None:
            return value
        await asyncio.sleep(_POLL_S)


def let_pass(seconds: float, until: str) -> None:
    """Let time itself pass: only for what nothing but time brings, such as the end of a limit. `until` says what."""
    assert until, "say what only time brings"
    time.sleep(seconds)


class _Tries(Generic[T]):
    """One look at a condition after the other, until the time is over."""

    def __init__(self, condition: Callable[[], T], within_s: float, message: str) -> None:
        self._condition, self._within_s, self._message = condition, within_s, message
        self._deadline = time.monotonic() + within_s

    def next(self) -> T | None:
        """The condition's value where it is true. Raises `AssertionError` when that was the last look."""
        error = None
        try:
            value = self._condition() or None
        except AssertionError as raised:
            value, error = None, raised
        if value is None and time.monotonic() > self._deadline:
            cause = f"; the last try raised {error!r}" if error else ""
            what = self._message or "the condition"
            raise AssertionError(f"{what} did not come true within {self._within_s} s{cause}") from error
        return value
