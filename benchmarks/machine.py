"""Facts about the machine, without which figures mean little."""

from __future__ import annotations

import hashlib
import os
import platform
import statistics
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_WRITES = 50


def facts(work: Path) -> dict[str, Any]:
    """What is measured on. `work` is where the systems keep their files: its disk decides what fsync costs."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "usable_processors": _usable_processors(),
        "memory_gb": _memory_gb(),
        "file_system": _file_system(work),
        "commit": _commit(),
        **moment(work),
    }


def moment(work: Path) -> dict[str, Any]:
    """How quick the machine is now, and how busy: noted before each measurement."""
    return {"fsync_ms": fsync_ms(work), "core_ms": core_ms(), "load": list(os.getloadavg())}


def fsync_ms(directory: Path) -> float:
    """The median time of appending 4 KB and making it durable."""
    times_s = []
    path = directory / "fsync-probe"
    with path.open("wb", buffering=0) as file:
        for _ in range(_WRITES):
            began = time.perf_counter()
            file.write(b"\0" * 4096)
            os.fsync(file.fileno())
            times_s.append(time.perf_counter() - began)
    path.unlink()
    return 1e3 * statistics.median(times_s)


def core_ms() -> float:
    """The median time of a fixed piece of work on one core: a slower machine, or a busier moment, shows here."""
    times_s = []
    for _ in range(7):
        began = time.perf_counter()
        digest = b""
        for _ in range(20_000):
            digest = hashlib.sha256(digest).digest()
        times_s.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times_s)


def _usable_processors() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _memory_gb() -> float | None:
    with suppress(OSError, ValueError, AttributeError):
        return float(round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1))
    return None


def _file_system(directory: Path) -> str:
    best = ("", "unknown")
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            point, kind = line.split()[1:3]
            if directory.resolve().is_relative_to(point) and len(point) >= len(best[0]):
                best = (point, kind)
    return best[1]


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
