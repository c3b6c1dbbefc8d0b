"""Filters alone, on one core: simple ones a second, and the slowest that we could think of on an event of 1 KB."""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.workload import Figures
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.filters import CESQL, EventPattern

_REPETITIONS = 5
_REPETITION_S = 0.05
_EVENT_BYTES = 1024

_DATA: dict[str, Any] = {
    "instrument": "sem-3",
    "site": "north",
    "state": "running",
    "temperature": 21.5,
    "address": "10.1.2.3",
    "tags": ["raw", "calibrated", "night"],
}

SIMPLE: dict[str, Any] = {
    "one value": {"data": {"state": ["running"]}},
    "a value of three": {"data": {"state": ["failed", "stopped", "running"]}},
    "a prefix": {"data": {"instrument": [{"prefix": "sem-"}]}},
    "a number's range": {"data": {"temperature": [{"numeric": [">", 20, "<=", 30]}]}},
    "anything but": {"data": {"site": [{"anything-but": ["south", "east"]}]}},
    "an address": {"data": {"address": [{"cidr": "10.0.0.0/8"}]}},
    "two fields": {"type": ["org.example.measured"], "data": {"state": ["running"]}},
}

_SQL = "type = 'org.example.measured' AND subject LIKE 'runs/%'"


def filters(_system: object = None) -> Figures:
    """How many of each kind are evaluated in a second, the least of the simple ones, and the slowest of all in ms."""
    event = _event(_DATA).document
    simple = {name: _time_s(partial(EventPattern(each).matches, event)) for name, each in SIMPLE.items()}
    worst = {name: _time_s(test) for name, test in _worst().items()}
    slowest = max(worst, key=lambda name: worst[name])
    return {
        "patterns_median_per_s": 1 / sorted(simple.values())[len(simple) // 2],
        "patterns_least_per_s": 1 / max(simple.values()),
        "cesql_per_s": 1 / _time_s(partial(CESQL(_SQL).evaluate, _event(_DATA).attributes)),
        "pattern_slowest_ms": 1e3 * worst[slowest],
        **{f"pattern_{name.replace(' ', '_')}_us": 1e6 * each for name, each in worst.items()},
    }


def _worst() -> dict[str, Callable[[], object]]:
    """Patterns at their limits on events of 1 KB that make the most work, and do not match."""
    text = "a" * 900
    short = [{"a": "1", "b": str(place)} for place in range(40)]
    many = {f"f{place}": place for place in range(90)}
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "wildcards": ({"data": {"x": [{"wildcard": "*a" * 30 + "*b"}]}}, {"x": text}),
        "many wildcards": ({"data": {"x": [{"wildcard": f"*a*{place}*"} for place in range(100)]}}, {"x": text}),
        "many suffixes": ({"data": {"x": [{"suffix": f"{place}b"} for place in range(1000)]}}, {"x": text}),
        "array consistency": ({"data": {"x": {"a": ["1"], "b": ["none"]}}}, {"x": short}),
        "two arrays": (
            {"data": {"x": {"a": ["1"]}, "y": {"a": ["1"], "b": ["none"]}}},
            {"x": short[:20], "y": short[:20]},
        ),
        "256 fields": ({"data": {f"f{place}": [{"anything-but": -1}] for place in range(250)}}, many),
        "choices": (
            {"$or": [{"data": {f"f{a}": [a], f"g{b}": [b]}} for a in range(12) for b in range(10)]},
            many,
        ),
        "ranges and an array": (
            {"data": {"x": [{"numeric": [">", place + 1000]} for place in range(500)]}},
            {"x": list(range(250))},
        ),
    }
    numbers = [str(place) for place in range(180)]
    for name, operator, count in (
        ("prefixes and an array", "prefix", 1000),
        ("suffixes and an array", "suffix", 1000),
        ("texts in any case and an array", "equals-ignore-case", 500),
    ):
        found[name] = ({"data": {"x": [{operator: f"q{place}b"} for place in range(count)]}}, {"x": numbers})
    wildcards = [{"wildcard": f"*{place}*b"} for place in range(500)]
    blocks = [{"cidr": f"10.0.{place % 250}.0/30"} for place in range(500)]
    found["wildcards and an array"] = ({"data": {"x": wildcards}}, {"x": numbers})
    found["blocks and an array"] = ({"data": {"x": blocks}}, {"x": [f"11.1.1.{place}" for place in range(80)]})
    tests: dict[str, Callable[[], object]] = {}
    for name, (pattern, data) in found.items():
        event = _event(data).document
        size = len(json.dumps(event, separators=(",", ":")))
        assert size <= 1.3 * _EVENT_BYTES, f"{name}: {size} bytes"
        tests[name] = partial(EventPattern(pattern).matches, event)
    like = CESQL("subject LIKE '" + "%a" * 30 + "%b'")
    tests["sql like"] = partial(like.evaluate, _event({}, subject=text).attributes)
    return tests


def _event(data: Any, **more: Any) -> CloudEvent:
    return CloudEvent.of_document(
        {
            "specversion": "1.0",
            "id": "1",
            "source": "/benchmark",
            "type": "org.example.measured",
            "subject": "runs/2031",
            "data": data,
            **more,
        }
    )


def _time_s(work: Callable[[], object]) -> float:
    timer = timeit.Timer(work)
    number = max(1, int(_REPETITION_S / timer.timeit(1)))
    return min(timer.repeat(_REPETITIONS, number)) / number
