"""How busy this machine is, and how much memory processes have: what a manager's signs of life tell beside its pools.

Linux tells it in /proc; elsewhere what cannot be known is left out.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def machine_load(directory: Path) -> dict[str, Any]:
    """Processors, load average of the last minute, memory, and the free room of the disk that has `directory`."""
    load: dict[str, Any] = {"cpus": _cpus(), **_memory()}
    with contextlib.suppress(OSError):
        load["load_1m"] = round(os.getloadavg()[0], 2)
    with contextlib.suppress(OSError):
        load["disk_free_bytes"] = shutil.disk_usage(directory).free
    return load


def resident_bytes(pids: Iterable[int]) -> int:
    """The resident memory of these processes together; what they share counts for each."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            total += int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return total * _PAGE_BYTES


def _cpus() -> int:
    # Not all systems know which of them a process may use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> dict[str, int]:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return {}
    kib = {name: int(number) for name, number in re.findall(r"(\w+):\s+(\d+) kB", text)}
    known = {"memory_bytes": kib.get("MemTotal"), "memory_available_bytes": kib.get("MemAvailable")}
    return {name: number * 1024 for name, number in known.items() if number is not None}
