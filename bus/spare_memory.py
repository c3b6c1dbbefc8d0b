"""Memory that was needed once, and that the C library keeps for later, or does not."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import Any, Final

LARGEST_KEPT: Final = 8 * 1024 * 1024
"""More than a large message and its value, so that these are taken from what is kept."""

_KEPT_BYTES = 1024 * 1024


def keep_for_messages(largest_bytes: int = LARGEST_KEPT) -> None:
    """Let the memory of a large message be used again for the next one. Up to twice `largest_bytes` are kept.

    glibc asks the system for each piece of more than 128 KB, and gives it back once it is free; pages that are
    new each time cost a call of 1 MB in and out a fifth of its processor time. When such a piece is given back glibc
    takes its size for the usual one: from there on it keeps pieces up to that size, and twice as much in all.
    """
    # Zeros that nobody looks at take no memory. Elsewhere than with glibc nothing comes of it.
    bytes(largest_bytes)


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
