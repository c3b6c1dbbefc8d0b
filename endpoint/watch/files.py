"""Looks at files: which version is there, and whether somebody writes it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import stat
import sys
import threading
from typing import NamedTuple

from headrace.endpoint.watch.completeness import Seen

_CHUNK_BYTES = 1024 * 1024
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe without a writer would keep us waiting
_SIGNED = 2**63 - 1  # SQLite has no larger integers


class Opened(NamedTuple):
    """What an open file says."""

    seen: Seen
    is_written: bool | None
    """Whether somebody has it open for writing; None when the kernel does not say."""


def seen_of(found: os.stat_result, *, inodes: bool) -> Seen:
    """A version of a file; `inodes` is whether its file system has lasting ones."""
    return Seen(found.st_size, found.st_mtime_ns, found.st_ino & _SIGNED if inodes else 0)


def look(path: str, *, follow: bool, inodes: bool) -> Seen | None:
    """The version that is there; None when there is no such ordinary file. Raises `OSError` for any other reason."""
    try:
        found = os.stat(path, follow_symlinks=follow)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return seen_of(found, inodes=inodes) if stat.S_ISREG(found.st_mode) else None


def look_inside(path: str, *, follow: bool, inodes: bool) -> Opened | None:
    """The same from the opened file, which on network file systems is what the server says now; None when it cannot be
    opened."""
    try:
        handle = os.open(path, _OPEN | (0 if follow else os.O_NOFOLLOW))
    except OSError:
        return None
    try:
        found = os.fstat(handle)
        return Opened(seen_of(found, inodes=inodes), _is_written(handle)) if stat.S_ISREG(found.st_mode) else None
    except OSError:
        return None
    finally:
        os.close(handle)


def _is_written(handle: int) -> bool | None:
    """Whether the file is open for writing anywhere on this machine.

    The kernel grants no read lease on such a file. It may be asked about one's own files only (root: about all), and
    not on network file systems. The lease is given back at once: who opens the file for writing in these microseconds
    waits for them.
    """
    if sys.platform != "linux":
        return None
    import fcntl

    try:
        # Should somebody open the file in that moment, this is the signal that we get: one that nobody minds.
        fcntl.fcntl(handle, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return None
    with contextlib.suppress(OSError):
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def sha256_of(path: str, *, follow: bool, stop: threading.Event) -> str | None:
    """The SHA-256 of a file, as hexadecimal digits; None when `stop` comes first. Raises `OSError`."""
    digest = hashlib.sha256()
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    with open(handle, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            if stop.is_set():
                return None
            digest.update(chunk)
    return digest.hexdigest()
