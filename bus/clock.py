"""The time that passes, also while the machine sleeps.

`time.monotonic()` stands still in a suspended Linux or macOS machine: what should have ended during the night would be
good for as long again the next morning, while everybody else's clock went on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def _clock() -> Callable[[], float]:
    # On macOS CLOCK_MONOTONIC goes on in sleep, unlike `time.monotonic()`; on Windows the latter does.
    number: int | None = getattr(time, "CLOCK_MONOTONIC" if sys.platform == "darwin" else "CLOCK_BOOTTIME", None)
    if number is None:
        return time.monotonic
    return lambda: time.clock_gettime(number)


elapsed_s = _clock()
"""Seconds since some moment in the past; never goes back, never stands still."""


class Deadline:
    """A moment after which nobody waits any more; with None for the time limit it never comes."""

    def __init__(self, timeout_s: float | None) -> None:
        self._end = None if timeout_s is None else elapsed_s() + timeout_s

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return self._end is not None and elapsed_s() >= self._end

    def cut(self, most_s: float) -> float:
        """The time that is left, at most `most_s`, never quite nothing."""
        if self._end is None:
            return most_s
        return min(most_s, max(0.01, self._end - elapsed_s()))
