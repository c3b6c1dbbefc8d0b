"""Wait for a condition instead of sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

_POLL_S = 0.002

T = TypeVar("T")


def _gave_up(message: str, within_s: float, error: BaseException | None) -> AssertionError:
    cause = f"; the last try raised {error!r}" if error else ""
    return AssertionError(f"{message or 'the condition'} did not come true within {within_s} s{cause}")


def eventually(condition: Callable[[], T], within_s: float = 5.0, message: str = "") -> T:
    """The first true value of `condition()`; an `AssertionError` inside it counts as not yet.

    Raises `AssertionError` when the time is over, with the last error of the condition as its cause.
    """
    deadline = time.monotonic() + within_s
    while True:
        value, error = _tried(condition)
        if value is not None:
            return value
        if time.monotonic() > deadline:
            raise _gave_up(message, within_s, error) from error
        time.sleep(_POLL_S)


def let_pass(seconds: float, until: str) -> None:
    """Let time itself pass: only for what nothing but time brings, such as the end of a limit. `until` says what."""
    assert until, "say what only time brings"
    time.sleep(seconds)


async def eventually_async(condition: Callable[[], T], within_s: float = 5.0, message: str = "") -> T:
    """`eventually` that lets the event loop run between the tries."""
    deadline = time.monotonic() + within_s
    while True:
        value, error = _tried(condition)
        if value is not None:
            return value
        if time.monotonic() > deadline:
            raise _gave_up(message, within_s, error) from error
        await asyncio.sleep(_POLL_S)


def _tried(condition: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    try:
        return condition() or None, None
    except AssertionError as error:
        return None, error
