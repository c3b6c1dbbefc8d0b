"""What a worker's calls print, on its way from two files in memory to whoever keeps it.

The worker's stdout and stderr are files that every write is appended to: no call ever waits for a reader, whatever it
holds at that moment, and a size says to the byte where a call's output begins and ends. The engine reads them from the
front and gives the memory of what it has read back, so a file takes no more than what was printed since the last look.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

PRINTED_LIMIT: Final = 1024 * 1024
"""How many bytes are kept of one run of a task by default."""

_TAIL_BYTES = 64 * 1024
_FREE_BYTES = 64 * 1024
_KEEP_SIZE_PUNCH_HOLE = 0x03


class OutputFile:
    """One stream of a worker. `position` is up to where it has been read."""

    def __init__(self, name: str, directory: Path | None = None) -> None:
        """In memory, or in a directory for workers that get no descriptors from us."""
        if directory is None:
            self._fd = os.memfd_create(f"headrace-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        else:
            self._fd = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.position = 0
        self._freed = 0

    def writer(self) -> int:
        """A descriptor for the worker, to be closed by the caller. It cannot read: what is there may be others'."""
        return os.open(f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    @property
    def size(self) -> int:
        """How many bytes have been written. Less than `position` when somebody emptied the file."""
        return os.fstat(self._fd).st_size

    def read(self, start: int, count: int) -> bytes:
        """Bytes that are there still."""
        return os.pread(self._fd, count, start) if count > 0 else b""

    def advance(self, end: int) -> None:
        """Nothing before `end` is needed any more."""
        self.position = end
        if end - self._freed >= _FREE_BYTES:
            _punch_hole()(self._fd, _KEEP_SIZE_PUNCH_HOLE, self._freed, end - self._freed)
            self._freed = end

    def rewind(self) -> None:
        """The file was emptied by somebody who opened it anew (`> /dev/stderr` in a shell): begin at its front."""
        self.position = self._freed = 0

    def close(self) -> None:
        """Let go of it. A process that outlives the worker can write no more: nobody would give its memory back."""
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        os.close(self._fd)


class WorkerOutput:
    """The two files of one worker."""

    def __init__(self, directory: Path | None = None) -> None:
        self.files = (OutputFile("stdout", directory), OutputFile("stderr", directory))

    def sizes(self) -> tuple[int, int]:
        """How much has been written to stdout and to stderr."""
        return self.files[0].size, self.files[1].size

    def unread(self) -> bool:
        """Whether something has been written since it was read."""
        return any(file.size != file.position for file in self.files)

    def close(self) -> None:
        """Let go of both."""
        for file in self.files:
            file.close()


class RunOutput:
    """What one run of a task prints: its beginning is given on at once, its last bytes at the end, as far as
    `limit` allows. What lies between is cut, and counts in the offsets."""

    __slots__ = ("_head_left", "_tail_bytes", "_tails", "run", "written")

    def __init__(self, run: int, limit: int) -> None:
        self.run = run
        self.written = [0, 0]
        self._tail_bytes = min(_TAIL_BYTES, limit // 8)
        self._head_left = limit - 2 * self._tail_bytes
        self._tails = (bytearray(), bytearray())

    def take(self, stream: int, file: OutputFile, end: int) -> tuple[int, bytes]:
        """Take what is in the file up to `end`: the offset and the bytes that are to be given on now."""
        start, offset = file.position, self.written[stream]
        size = end - start
        self.written[stream] = offset + size
        head = min(size, self._head_left)
        self._head_left -= head
        data = file.read(start, head)
        rest = min(size - head, self._tail_bytes)
        if rest:
            tail = self._tails[stream]
            tail += file.read(end - rest, rest)
            del tail[: -self._tail_bytes]
        file.advance(end)
        return offset, data

    def rest(self, stream: int) -> tuple[int, bytes]:
        """The last bytes, once the run has ended: their offset and they."""
        tail = bytes(self._tails[stream])
        return self.written[stream] - len(tail), tail


@functools.cache
def _punch_hole() -> Callable[[int, int, int, int], int]:
    """Linux's `fallocate`, which Python has only half of. Where it fails, memory is given back with the file."""
    import ctypes

    function = ctypes.CDLL(None, use_errno=True).fallocate64
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    call: Callable[[int, int, int, int], int] = function
    return call
