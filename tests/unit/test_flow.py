"""The parts of flow control that need no bus: keys, limits, what begins next, what a function reports."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from headrace.bus.errors import FilterInvalid
from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.flow.limits import Limits
from headrace.bus.eventing.flow.plans import Plan, single, together
from headrace.bus.eventing.flow.policy import Batch, Flow, Pauses, Rate, compile_order
from headrace.bus.eventing.flow.scheduler import Entry, Scheduler
from headrace.bus.eventing.flow.verdicts import reported_failures

ENDPOINT = UUID(int=7)


def delivery(number: int, source: str = "/s") -> Delivery:
    return Delivery(UUID(int=9), "default", number, source, str(number))


@pytest.mark.parametrize(
    ("order_by", "event", "key"),
    [
        ("subject", {"subject": "a"}, "a"),
        ("subject", {}, None),
        ("data.a.b", {"data": {"a": {"b": "x"}}}, "x"),
        ("data.a.1", {"data": {"a": [1, True]}}, "=true"),
        ("data.a.b", {"data": {"a": [1]}}, None),
        ("data.a", {"data": {"a": None}}, None),
        ("data.a", {"data": {"a": 1}}, "=1"),
        ("data.a", {"data": {"a": "=1"}}, '="=1"'),
        ("data.a", {"data": {"a": {"y": 1, "x": 2}}}, '={"x":2,"y":1}'),
    ],
)
def test_the_key_of_an_event(order_by: str, event: dict[str, Any], key: str | None) -> None:
    compiled = compile_order(order_by)
    assert compiled is not None
    assert compiled(event) == key


@pytest.mark.parametrize("order_by", ["", "data", "data..a", "Subject", "a.b", "data_base64"])
def test_an_order_that_cannot_be_is_refused(order_by: str) -> None:
    with pytest.raises(FilterInvalid, match="order_by"):
        compile_order(order_by)


def test_a_rate_lets_a_burst_begin_after_a_quiet_time_and_none_after_a_takeover() -> None:
    limits = Limits(None, Rate(per_second=2, burst=3), now=0.0)
    assert not limits.may_begin(0.0)
    assert limits.wait_s(0.0) == 0.5
    begun = 0
    while limits.may_begin(100.0):
        limits.begin(100.0)
        begun += 1
    assert begun == 3
    assert limits.may_begin(100.5)


def test_whoever_is_more_important_goes_first_and_is_woken_first() -> None:
    limits = Limits(1, None, now=0.0)
    woken: list[str] = []
    limits.want("low", 0, lambda: woken.append("low"))
    limits.want("high", 5, lambda: woken.append("high"))
    assert limits.may_begin(0.0, "high", 5)
    assert not limits.may_begin(0.0, "low", 0)
    limits.begin(0.0)
    assert not limits.may_begin(0.0, "high", 5)
    limits.end()
    limits.want_nothing("high")
    assert woken == ["high", "low", "low"]
    assert limits.may_begin(0.0, "low", 0)


def test_a_batch_begins_when_it_is_full_or_its_window_is_over_or_it_is_large() -> None:
    scheduler = Scheduler(Flow(batch=Batch(size=3, window_s=5)), Limits(None, None, now=0.0), most_bytes=100)

    def begun(now: float) -> list[int]:
        begin = scheduler.next(now, now)
        return [] if begin is None else [entry.place for entry in begin.entries]

    for place in (1, 2):
        scheduler.add(Entry(place, place, size=10, queued_at=10.0))
    assert begun(11.0) == []
    assert scheduler.until(11.0) == 15.0
    scheduler.add(Entry(3, 3, size=10, queued_at=12.0))
    assert begun(12.0) == [1, 2, 3]
    scheduler.add(Entry(4, 4, size=10, queued_at=13.0))
    assert begun(17.9) == []
    assert begun(18.0) == [4]
    for place in (5, 6):
        scheduler.add(Entry(place, place, size=60, queued_at=20.0))
    assert begun(20.0) == [5]
    assert begun(20.0) == []
    # What was tried before goes alone, and at once.
    scheduler.add(Entry(7, 1, size=1, queued_at=20.0, fresh=False))
    assert begun(20.0) == [7]


def test_ten_thousand_keys_cost_what_begins_and_leave_nothing_behind() -> None:
    scheduler = Scheduler(Flow(order_by="subject"), Limits(None, None, now=0.0))
    for number in range(1, 10_001):
        scheduler.add(Entry(number, number, key=str(number % 5000)))
    assert scheduler.next(0.0, 0.0) is None
    assert scheduler.held_back
    scheduler.see(10_000)
    begun = []
    while (begin := scheduler.next(0.0, 0.0)) is not None or scheduler.running:
        if begin is not None:
            begun.append(begin.entries[0].order)
            scheduler.ended(begin)
    assert sorted(begun) == list(range(1, 10_001))
    assert list(scheduler.keys()) == []


def batch(*events: Delivery) -> Plan:
    return together(list(enumerate(events, start=1)), ENDPOINT, None)


@pytest.mark.parametrize(
    ("value", "failing"),
    [
        (None, set()),
        ({}, set()),
        ({"batchItemFailures": []}, set()),
        ({"batchItemFailures": None}, set()),
        ({"batchItemFailures": [{"itemIdentifier": "1"}]}, {"1"}),
        ({"batchItemFailures": [{"itemIdentifier": "1"}, {"itemIdentifier": "2"}]}, {"1", "2"}),
        ({"batchItemFailures": [{"itemIdentifier": ""}]}, None),
        ({"batchItemFailures": [{"itemIdentifier": None}]}, None),
        ({"batchItemFailures": [{"itemIdentifier": "1"}, {"itemIdentifier": "9"}]}, None),
        ({"batchItemFailures": [{"identifier": "1"}]}, None),
        ({"batchItemFailures": ["1"]}, None),
        ({"batchItemFailures": [{"itemIdentifier": ["1"]}]}, None),
        ({"batchItemFailures": "1"}, None),
        ("done", None),
    ],
)
def test_what_a_function_reports_is_read_as_lambda_reads_it(value: Any, failing: set[str] | None) -> None:
    assert reported_failures(batch(delivery(1), delivery(2)), value) == failing


def test_the_id_of_a_plan_follows_from_its_deliveries_and_attempt() -> None:
    one = delivery(1)
    assert single(1, one, ENDPOINT, None).plan_id == one.bundle_id(ENDPOINT)
    plan = batch(one, delivery(2))
    assert Plan.decode(plan.encode()) == plan
    assert plan.plan_id == batch(one, delivery(2)).plan_id
    others = {batch(one, delivery(3)).plan_id, plan.of(plan.members[:1]).plan_id}
    assert plan.plan_id not in others


def test_a_pause_keeps_what_it_said_of_those_before_it() -> None:
    first = Pauses().begin(1.0, 10, drop=False)
    assert first.begin(2.0, 20, drop=True).now == first.begin(3.0, 30, drop=True).now
    went_on = first.end(15, drop=True)
    assert went_on == Pauses(resumed=15, dropped=((10, 15),))
    assert went_on.end(20, drop=True) == went_on
    again = went_on.begin(4.0, 30, drop=False).end(35, drop=True)
    assert again.dropped == ((10, 15), (30, 35))
