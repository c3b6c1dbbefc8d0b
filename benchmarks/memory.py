"""How much memory the processes of a system hold, from /proc (Linux)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MARK = "HEADRACE_BENCHMARK_RUN"
"""The environment variable that marks a run's processes: some systems detach theirs, so that no tree leads to them."""

_PROC = Path("/proc")


class MemoryUnknown(RuntimeError):
    """Raised when this platform does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process. RSS counts what is shared with others in full, PSS in proportion."""

    role: str
    pid: int
    rss_mb: float
    pss_mb: float


def of_all(role: Callable[[Sequence[str]], str]) -> list[dict[str, Any]]:
    """This process, as `client`, and all that it started. Raises `MemoryUnknown`."""
    if not (_PROC / "self" / "smaps_rollup").exists():
        raise MemoryUnknown("this platform has no /proc/PID/smaps_rollup")
    found = []
    for pid in sorted({os.getpid(), *_descendants(os.getpid()), *_marked()}):
        try:
            rss_mb, pss_mb = _sizes(pid)
            name = "client" if pid == os.getpid() else role(_command(pid))
        except (OSError, ProcessLookupError):
            continue  # it ended in this moment
        found.append(asdict(Process(role=name, pid=pid, rss_mb=rss_mb, pss_mb=pss_mb)))
    return found


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            try:
                # The name in parentheses may hold anything, spaces and parentheses too.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    below = list(children.get(root, []))
    for pid in below:  # grows while we walk
        below += children.get(pid, [])
    return below


def _marked() -> list[int]:
    mark = os.environ.get(MARK)
    if mark is None:
        return []
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            with suppress(OSError, ProcessLookupError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def _command(pid: int) -> list[str]:
    return (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")


def _sizes(pid: int) -> tuple[float, float]:
    sizes = {"Rss": 0.0, "Pss": 0.0}
    for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in sizes:
            sizes[name] = int(rest.split()[0]) / 1024
    return sizes["Rss"], sizes["Pss"]
