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
