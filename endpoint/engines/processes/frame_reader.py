"""Reads a worker's frames from memory that the kernel writes into.

small frames    are taken out of one buffer, as many as one read brought
large ones      get memory of their own size, which the kernel fills directly
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from headrace.endpoint.worker.frames import HEAD_BYTES

BUFFER_BYTES: Final = 32 * 1024

OnFrame = Callable[[memoryview], None]
"""Gets a frame's content, which is only there until it returns."""


class FrameReader:
    """Fill `space()` and say how much with `filled`; frames that are whole then go to `on_frame`."""

    def __init__(self, on_frame: OnFrame) -> None:
        self._on_frame = on_frame
        self._view = memoryview(bytearray(BUFFER_BYTES))
        self._end = 0
        self._large: memoryview | None = None
        self._large_end = 0

    def space(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._large is not None:
            return self._large[self._large_end :]
        return self._view[self._end :]

    def filled(self, count: int) -> None:
        """So many bytes were put into `space()`. Raises what `on_frame` raises."""
        if self._large is None:
            self._end += count
            self._take_all()
            return
        self._large_end += count
        if self._large_end == len(self._large):
            frame, self._large = self._large, None
            self._on_frame(frame)

    def _take_all(self) -> None:
        view, start, end = self._view, 0, self._end
        try:
            while end - start >= HEAD_BYTES:
                content = start + HEAD_BYTES
                size = int.from_bytes(view[start:content], "little")
                if end - content < size:
                    if HEAD_BYTES + size > BUFFER_BYTES:
                        self._large, self._large_end = memoryview(bytearray(size)), end - content
                        self._large[: self._large_end] = view[content:end]
                        start = end
                    break
                start = content + size
                self._on_frame(view[content:start])
        finally:
            view[: end - start] = view[start:end]
            self._end = end - start
