"""Memory that was needed once, and that the C library keeps for later."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import Any

_KEPT_BYTES = 1024 * 1024


def give_back() -> None:
    """Give free memory back to the system; does nothing where the C library has no word for that (it is glibc's)."""
    trim = _trim()
    if trim is not None:
        trim(_KEPT_BYTES)


@functools.cache
def _trim() -> Callable[[int], Any] | None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            import ctypes  # takes its time, and an idle pool never needs it

            trim: Callable[[int], Any] = ctypes.CDLL(None).malloc_trim
            return trim
    return None
