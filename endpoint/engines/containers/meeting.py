"""Where an engine and a worker in a container meet: a directory of their own, with

socket            the worker comes here; nobody else is let in after it
counters          the page of memory that both share (`headrace.endpoint.worker.frames`)
stdout, stderr    what calls print, unless it is not kept
log               what the container's runtime says, for people
"""

from __future__ import annotations

import mmap
import os
import shutil
import socket
import struct
from pathlib import Path
from typing import Final

from headrace.endpoint.worker.frames import COUNTERS_BYTES

_CREDENTIALS: Final = struct.Struct("3i")
_TAIL_BYTES: Final = 2_000
_TAIL_LINES: Final = 8


class Meeting:
    """The engine's side. Close it, then remove it."""

    def __init__(self, directory: Path, *, buffer_bytes: int) -> None:
        """Make the directory (0700). Raises `OSError`."""
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True)
        fd = os.open(directory / "counters", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(fd, COUNTERS_BYTES)
            self.counters = memoryview(mmap.mmap(fd, COUNTERS_BYTES)).cast("B").cast("Q")
        finally:
            os.close(fd)
        self._listener: socket.socket | None = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        _bind(self._listener, directory)
        self._listener.listen(1)

    @property
    def door(self) -> int | None:
        """The descriptor to watch for the worker's coming; None once it came, or is not waited for."""
        return self._listener.fileno() if self._listener is not None else None

    def open_log(self) -> int:
        """A descriptor for what the runtime says, to be closed by the caller."""
        return os.open(self.directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def log_tail(self) -> str:
        """The last lines that it said."""
        try:
            return last_lines((self.directory / "log").read_bytes()[-_TAIL_BYTES:])
        except OSError:
            return ""  # somebody has tidied up: the end of the worker counts all the same

    def welcome(self) -> tuple[socket.socket, int]:
        """Take the worker in: the connection, and its process id outside of its container. Raises `OSError`."""
        assert self._listener is not None  # noqa: S101 - `door` was watched
        connection, _ = self._listener.accept()
        self.close()
        connection.setblocking(False)
        pid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]
        # It names its files by it: inside, every worker may have the same.
        connection.send(pid.to_bytes(8, "little"))
        return connection, pid

    def close(self) -> None:
        """Wait for nobody any more."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def remove(self) -> None:
        """Remove the directory."""
        self.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def last_lines(said: bytes) -> str:
    """The last lines of what a program said, in one."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines()]
    return " / ".join([line for line in lines if line][-_TAIL_LINES:])


def _bind(listener: socket.socket, directory: Path) -> None:
    # By way of a descriptor: the path of a socket may have 107 bytes only.
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{fd}/socket")
    finally:
        os.close(fd)
