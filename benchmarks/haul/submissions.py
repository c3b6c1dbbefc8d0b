"""One client that submits a million no-ops in a plain loop: what it holds, and what the others hold meanwhile."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.functions import no_op
from benchmarks.haul.probes import Point, Usage
from headrace.sdk import Executor

_TASKS = 1_000_000
_WINDOW = 5_000
_SAMPLE_S = 0.5
_ROLES = ("client", "nats", "service", "pool")


def submissions(haul: Any) -> Iterator[Point]:
    """Futures dropped, with a window of unfinished ones, kept; and for an endpoint that is away, cancelled at the end.

    Peaks are what a process held at most, the client's above what it had before.
    """
    count = max(2_000, round(_TASKS * haul.factor))
    client, endpoint = haul.system.client, haul.executor.endpoint_id
    away = client.register_endpoint("away")["endpoint_id"]
    for name, most, keep in (("dropped", None, False), ("window", _WINDOW, False), ("kept", None, True)):
        executor = Executor(endpoint, client, max_unfinished=most)
        with _peaks(haul.usage) as figures:
            futures, submitted_s, all_s = _run(executor, count, keep)
        yield Point(f"submitted, {name}", count, _figures(figures, count, submitted_s, all_s))
        del futures
    executor = Executor(away, client)
    with _peaks(haul.usage) as figures:
        began = time.perf_counter()
        for _ in range(count):
            executor.submit(no_op)
        submitted_s = time.perf_counter() - began
        executor.shutdown(cancel_futures=True)
        cancelled_s = time.perf_counter() - began - submitted_s
    found = _figures(figures, count, submitted_s, submitted_s)
    yield Point("submitted, endpoint away", count, {**found, "cancel_s": cancelled_s})


def _run(executor: Executor, count: int, keep: bool) -> tuple[list[Any], float, float]:
    futures: list[Any] = []
    began = time.perf_counter()
    for _ in range(count):
        future = executor.submit(no_op)
        if keep:
            futures.append(future)
    submitted_s = time.perf_counter() - began
    executor.shutdown()
    return futures, submitted_s, time.perf_counter() - began


def _figures(peaks: dict[str, float], count: int, submitted_s: float, all_s: float) -> dict[str, float]:
    grown = peaks["client"] - peaks["client before"]
    return {
        "submitted_per_s": count / submitted_s,
        "per_s": count / all_s,
        "client_peak_mb": grown,
        "client_bytes_per_task": 1e6 * grown / count,
        **{f"{role}_peak_mb": peaks[role] for role in _ROLES[1:]},
    }


@contextmanager
def _peaks(usage: Callable[[], Usage]) -> Iterator[dict[str, float]]:
    """The most memory that each role has held meanwhile, in MB."""
    peaks: defaultdict[str, float] = defaultdict(float)
    peaks["client before"] = usage().mb["client"]
    over = threading.Event()

    def look() -> None:
        while not over.wait(_SAMPLE_S):
            for role, mb in usage().mb.items():
                peaks[role] = max(peaks[role], mb)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield peaks
    finally:
        over.set()
        looking.join()
        for role, mb in usage().mb.items():
            peaks[role] = max(peaks[role], mb)
