"""A worker's side of what its calls print: how far the two files are that stand behind its stdout and stderr.

Light on purpose: this runs after every call, and most calls print nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys

from headrace.endpoint.frames import ERR_BEGIN, OUT_BEGIN, PrintedItem


class Printed:
    """Where each call's output begins and ends. The beginnings are told in the memory that the engine shares."""

    def __init__(self, counters: memoryview) -> None:
        self._counters = counters
        # Of our own: a call may close or replace the ones that it prints to.
        self._out, self._err = os.dup(1), os.dup(2)
        self._ends = (0, 0)
        self.begin()

    def begin(self) -> None:
        """Note where the next call's output begins: what was printed since the last one is nobody's."""
        self._flush()
        self._note((os.lseek(self._out, 0, os.SEEK_END), os.lseek(self._err, 0, os.SEEK_END)))

    def end(self, number: int) -> PrintedItem | None:
        """What call `number`, which has just ended, printed; None if that is nothing."""
        self._flush()
        ends = os.lseek(self._out, 0, os.SEEK_END), os.lseek(self._err, 0, os.SEEK_END)
        begins = self._ends
        if ends == begins:
            return None
        self._note(ends)
        return (number, begins[0], ends[0], begins[1], ends[1])

    def _flush(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # noqa: S112 - a call may have closed it, or put anything in its place
                continue

    def _note(self, ends: tuple[int, int]) -> None:
        self._ends = ends
        self._counters[OUT_BEGIN], self._counters[ERR_BEGIN] = ends


def flush_c_lines() -> None:
    """Let the C library write whole lines at once, as Python does: it would keep what it thinks goes into a file."""
    import ctypes

    with contextlib.suppress(AttributeError, ValueError, OSError):  # another C library than expected
        library = ctypes.CDLL(None)
        for name in ("stdout", "stderr"):
            library.setvbuf(ctypes.c_void_p.in_dll(library, name), None, 1, 0)
