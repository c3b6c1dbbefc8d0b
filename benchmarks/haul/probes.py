"""What is looked at while things grow: time, processor time and memory by process, bytes on disk."""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import memory

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

Role = Callable[[Sequence[str]], str]


@dataclass(frozen=True, slots=True)
class Point:
    """The figures when there are `at` of what grows. The name of a figure ends with its unit."""

    series: str
    at: int
    figures: dict[str, float]


@dataclass(slots=True)
class Usage:
    """Processor time (s) and memory (PSS, MB) of all processes, by what they do."""

    cpu_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    mb: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @classmethod
    def now(cls, role: Role) -> Usage:
        """Of this process, as `client`, and of all that it started."""
        usage = cls()
        for process in memory.of_all(role):
            with suppress(OSError):
                usage.cpu_s[process["role"]] += _cpu_s(process["pid"])
                usage.mb[process["role"]] += process["pss_mb"]
        return usage

    def memory(self, *roles: str) -> dict[str, float]:
        """The memory of these roles, as figures."""
        return {f"{role}_mb": self.mb[role] for role in roles}

    def cost(self, before: Usage, tasks: int, *roles: str) -> dict[str, float]:
        """The processor time per task since then, all together and of these roles, as figures."""
        spent = {role: self.cpu_s[role] - before.cpu_s[role] for role in self.cpu_s}
        figures = {"cpu_us": 1e6 * sum(spent.values()) / tasks}
        return figures | {f"{role}_us": 1e6 * spent.get(role, 0.0) / tasks for role in roles}


def round_trips(call: Callable[[], object], count: int) -> dict[str, float]:
    """One call after the other: median and 99th percentile."""
    times_s = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - began)
    times_s.sort()
    p99_s = times_s[min(len(times_s) - 1, int(0.99 * len(times_s)))]
    return {"round_trip_p50_ms": 1e3 * statistics.median(times_s), "round_trip_p99_ms": 1e3 * p99_s}


def disk_mb(directory: Path) -> float:
    """What the files below a directory take on the disk."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
    return total / 1e6


def steps(last: int, first: int, factor: float) -> list[int]:
    """From `first` to `last`, two to each power of ten (or each double the last), all of it scaled by a factor."""
    first, last = max(1, round(first * factor)), max(2, round(last * factor))
    found, step = [], float(first)
    while step < last * 0.99:
        found.append(round(step))
        step *= 10**0.5 if last / first > 30 else 2
    return [*found, last]


def _cpu_s(pid: int) -> float:
    """What a process has used, and those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS_PER_S
