"""When a manager gives its next sign of life."""

from __future__ import annotations

from typing import Any

from headrace.endpoint.signs import Signs

IDLE: list[dict[str, Any]] = [{"pool": "default", "workers": 2, "busy": 0, "queued": 0, "memory_bytes": 1}]
BUSY: list[dict[str, Any]] = [{"pool": "default", "workers": 2, "busy": 1, "queued": 0, "memory_bytes": 1}]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_signs_are_rare_while_nothing_happens_and_the_service_would_notice_an_end() -> None:
    clock = Clock()
    signs = Signs(5, clock=clock)
    assert signs.is_due(IDLE, is_heard=True)

    signs.given(IDLE, 60)
    assert not signs.is_due([{**IDLE[0], "memory_bytes": 2}], is_heard=True)
    assert signs.is_due(IDLE, is_heard=False)
    clock.now += 60
    assert signs.is_due(IDLE, is_heard=True)


def test_signs_are_frequent_while_something_runs_or_has_changed_or_one_was_not_heard() -> None:
    signs = Signs(5, clock=Clock())
    signs.given(IDLE, 60)
    assert signs.is_due(BUSY, is_heard=True)
    signs.given(BUSY, 5)
    assert signs.is_due(BUSY, is_heard=True)
    assert signs.is_due(IDLE, is_heard=True)

    signs.given(IDLE, 60)
    assert signs.is_due([], is_heard=True)
    signs.failed()
    assert signs.is_due(IDLE, is_heard=True)


def test_a_service_that_does_not_say_when_hears_as_often_as_ever() -> None:
    clock = Clock()
    signs = Signs(5, clock=clock)
    signs.given(IDLE, None)

    clock.now += 5
    assert signs.is_due(IDLE, is_heard=True)
