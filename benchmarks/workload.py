"""What every system is asked to do, and how the figures are taken. Only the standard library: peers run this too."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from benchmarks import functions
from benchmarks.systems import System

WARM_UP_CALLS = 100
ROUND_TRIPS = 500
NO_OPS = 5_000
SMALL_CALLS, SMALL_BYTES = 2_000, 10 * 1024
FIRST_LARGE_CALLS, LARGE_CALLS, LARGE_BYTES = 50, 150, 1024 * 1024

Figures = dict[str, float]
"""Figures by name; the name ends with the unit."""


def first_result(system: System) -> None:
    """One call, waited for."""
    assert system.results([system.submit(functions.no_op)]) == [None]


def warm_up(system: System) -> None:
    """Let connections, workers and caches come to be."""
    for _ in range(WARM_UP_CALLS):
        first_result(system)
    system.results([system.submit(functions.echo, b"warm") for _ in range(WARM_UP_CALLS)])


def round_trip(system: System) -> Figures:
    """One call after the other, each from its submission to its value."""
    times_s = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        system.results([system.submit(functions.no_op)])
        times_s.append(time.perf_counter() - began)
    return percentiles("round_trip", times_s)


def no_ops(system: System) -> Figures:
    """Many calls at once."""
    began = time.perf_counter()
    values = system.results([system.submit(functions.no_op) for _ in range(NO_OPS)])
    took_s = time.perf_counter() - began
    if values != [None] * NO_OPS:
        raise ValueError("not every call gave its result")
    return {"no_ops_per_s": NO_OPS / took_s}


def small_data(system: System) -> Figures:
    """10 KB to the function and back."""
    return {"small_per_s": _echo(system, SMALL_CALLS, SMALL_BYTES)}


def large_data(system: System) -> Figures:
    """1 MB to the function and back: the first calls, while every process asks for memory, and those after them."""
    first = _echo(system, FIRST_LARGE_CALLS, LARGE_BYTES)
    return {"large_first_per_s": first, "large_per_s": _echo(system, LARGE_CALLS, LARGE_BYTES)}


MEASURES: dict[str, Callable[[System], Figures]] = {
    "round_trip": round_trip,
    "no_ops": no_ops,
    "small_data": small_data,
    "large_data": large_data,
}
"""In the order in which they are taken."""


def percentiles(name: str, times_s: Sequence[float]) -> Figures:
    """p50, p95 and p99 in milliseconds (nearest rank)."""
    ordered = sorted(times_s)
    return {f"{name}_p{share}_ms": 1e3 * ordered[-(-share * len(ordered) // 100) - 1] for share in (50, 95, 99)}


def _echo(system: System, calls: int, size: int) -> float:
    # Different bytes each: a system that recognises equal arguments would not move them.
    data = [os.urandom(size) for _ in range(calls)]
    began = time.perf_counter()
    values = system.results([system.submit(functions.echo, each) for each in data])
    took_s = time.perf_counter() - began
    if values != data:
        raise ValueError("what came back is not what was sent")
    return calls / took_s
