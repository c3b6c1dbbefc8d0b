"""The processes that a worker's calls have started, also those that have left its process group."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """All processes below one, as far as the kernel tells; without those whose own parent has ended."""
    found: list[int] = []
    parents = [pid]
    while parents:
        for child in _children(parents.pop()):
            found.append(child)
            parents.append(child)
    return found


def kill_all(pids: list[int]) -> None:
    """Kill each that is still there and may be killed."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    # A process, or a thread of it, may end while it is looked at.
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children += [int(child) for child in (thread / "children").read_text().split()]
    return children
