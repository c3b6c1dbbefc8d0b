"""A worker's side of what its calls print: how far the two files are that stand behind its stdout and stderr.

Light on purpose: this runs after every call, and most calls print nothing. It takes 0.8 microseconds.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from os import SEEK_END, lseek
from typing import TextIO

from headrace.endpoint.worker.frames import ERR_BEGIN, OUT_BEGIN, PrintedItem


class Printed:
    """Where each call's output begins and ends. The beginnings are told in the memory that the engine shares."""

    def __init__(self, counters: memoryview) -> None:
        self._counters = counters
        # Of our own: a call may close or replace the ones that it prints to.
        self._out, self._err = os.dup(1), os.dup(2)
        self._out_end = self._err_end = 0
        self._streams = (sys.stdout, sys.stderr)
        self._showing = threading.Lock()
        # A child must not be born while another thread holds the lock inside a stream: nobody would open it there.
        os.register_at_fork(
            before=self._showing.acquire,
            after_in_parent=self._showing.release,
            after_in_child=self._showing.release,
        )
        self.begin()

    def begin(self) -> None:
        """Note where the next call's output begins: what was printed since the last one is nobody's."""
        if self.end(0) is not None:
            self.tell()

    def end(self, number: int) -> PrintedItem | None:
        """What call `number`, which has just ended, printed; None if that is nothing. Else `tell` must follow."""
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except Exception:
            _flush(sys.stdout, sys.stderr)
        # Quicker than fstat by three quarters; where the files are appended to, it moves nothing.
        out_end, err_end = lseek(self._out, 0, SEEK_END), lseek(self._err, 0, SEEK_END)
        if out_end == self._out_end and err_end == self._err_end:
            return None
        printed = (number, self._out_end, out_end, self._err_end, err_end)
        self._out_end, self._err_end = out_end, err_end
        return printed

    def tell(self) -> None:
        """Tell the engine where the next call's output begins. Only once this one counts as finished: whoever sees
        it run takes what is told for the beginning of its own."""
        self._counters[OUT_BEGIN], self._counters[ERR_BEGIN] = self._out_end, self._err_end

    def show(self) -> None:
        """Let lines be seen that have no end yet, while a call takes long. For another thread than the calls'."""
        with self._showing:
            _flush(*self._streams)


def _flush(*streams: TextIO) -> None:
    for stream in streams:
        with contextlib.suppress(Exception):  # a call may have closed it, or put anything in its place
            stream.flush()


def flush_c_lines() -> None:
    """Let the C library write whole lines at once, as Python does: it would keep what it thinks goes into a file."""
    import ctypes

    with contextlib.suppress(AttributeError, ValueError, OSError):  # another C library than expected
        library = ctypes.CDLL(None)
        for name in ("stdout", "stderr"):
            library.setvbuf(ctypes.c_void_p.in_dll(library, name), None, 1, 0)
