"""Flow control of subscriptions: pauses, limits, order and batches, with a real bus, service and pool."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from events_desk import FLOW_NOTES, EventsDesk, Notes
from service import RunningService
from waiting import eventually

WORKERS = 4


@pytest.fixture
def desk(service: RunningService, endpoint: str, tmp_path: Path) -> EventsDesk:
    return EventsDesk(service.http(), tmp_path, service.add_function(FLOW_NOTES, "work"), endpoint)


def read(desk: EventsDesk, subscription: str) -> dict[str, Any]:
    answer = desk.http.get(f"/api/v1/subscriptions/{subscription}")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def change(desk: EventsDesk, subscription: str, **body: Any) -> dict[str, Any]:
    answer = desk.http.patch(f"/api/v1/subscriptions/{subscription}", json=body)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def drained(desk: EventsDesk, subscription: str) -> bool:
    return bool(read(desk, subscription)["queue"]["depth"] == 0)


def delivered(desk: EventsDesk, kind: str, notes: Notes) -> str:
    """A new subscription that has got an event: so the dispatcher has heard of what was changed before, and has matched
    what was published before."""
    subscription = desk.subscribe(kind, notes, "{{ event }}")
    desk.publish(kind, "heard")
    notes.wait(2)
    return subscription


def test_a_paused_subscription_keeps_or_drops_what_comes_meanwhile(desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    subscription = desk.subscribe(kind, notes, "{{ event }}")
    assert read(desk, subscription)["paused"] is None
    desk.publish(kind, "before")
    notes.wait(2)
    paused = change(desk, subscription, paused=True, backlog="keep")
    assert paused["paused"]["backlog"] == "keep"
    desk.publish(kind, "kept")
    eventually(lambda: read(desk, subscription)["queue"]["depth"] == 1, 10)
    assert len(notes.runs) == 2
    assert change(desk, subscription, paused=False)["paused"] is None
    notes.wait(4)
    eventually(lambda: drained(desk, subscription), 10)
    change(desk, subscription, paused=True)
    desk.publish(kind, "dropped when it goes on")
    eventually(lambda: read(desk, subscription)["queue"]["depth"] == 1, 10)
    change(desk, subscription, paused=False, backlog="drop")
    eventually(lambda: drained(desk, subscription), 10)
    change(desk, subscription, paused=True, backlog="drop")
    desk.unsubscribe(delivered(desk, f"{kind}.heard", desk.notes()))
    desk.publish(kind, "dropped at once")
    # What is matched after the pause is delivered: this comes to the matcher behind what is to be dropped.
    desk.unsubscribe(delivered(desk, f"{kind}.matched", desk.notes()))
    change(desk, subscription, paused=False)
    desk.publish(kind, "after")
    notes.wait(6)
    assert [run[2][0] for run in notes.runs][::2] == ["before", "kept", "after"]


def test_at_most_so_many_run_at_once_and_begin_in_a_second(desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    flow = {"concurrency": 2, "rate": {"per_second": 20, "burst": 2}}
    subscription = desk.subscribe(kind, notes, "{{ event }}", kwargs={"seconds": 0.05}, flow=flow)
    for n in range(12):
        desk.publish(kind, str(n))
    notes.wait(24)
    running = most = 0
    for _, what, _ in notes.runs:
        running += 1 if what == "begin" else -1
        most = max(most, running)
    assert most == 2
    begun = [at for at, what, _ in notes.runs if what == "begin"]
    assert begun[-1] - begun[0] >= (12 - 1 - 2 - 2) / 20
    eventually(lambda: drained(desk, subscription), 10)
    holder = read(desk, subscription)["queue"]["holder"]
    assert holder is not None


def test_events_of_one_key_keep_their_order_and_a_failing_one_parks_its_key(desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    subscription = desk.subscribe(
        kind,
        notes,
        "{{ event }}",
        kwargs={"bad": ["a1"], "seconds": 0.01},
        flow={"order_by": "data.key"},
        retry={"max_attempts": 2, "first_delay_s": 0.5},
    )
    events = [(key, n) for n in range(6) for key in "abc"]
    for key, n in events:
        desk.publish(kind, f"{key}{n}", data={"key": key})
    eventually(lambda: any(each["key"] == "a" for each in read(desk, subscription)["queue"]["failing"]), 10)
    letter = desk.dead_letter(subscription)
    assert letter["event_id"] == "a1"
    assert [attempt["attempt"] for attempt in letter["attempts"]] == [1, 2]
    eventually(lambda: drained(desk, subscription), 10)
    begun = [name for _, what, (name,) in notes.runs if what == "begin"]
    for key in "bc":
        assert [name for name in begun if name[0] == key] == [f"{key}{n}" for n in range(6)]
    assert [name for name in begun if name[0] == "a"] == ["a0", "a1", "a1", "a2", "a3", "a4", "a5"]
    # The others did not wait for it.
    ends = {name: at for at, what, (name,) in notes.runs if what != "begin"}
    assert max(ends["b5"], ends["c5"]) < ends["a1"]


def test_batches_are_cut_down_to_the_event_that_makes_them_fail(desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    subscription = desk.subscribe(
        kind,
        notes,
        "{{ events }}",
        kwargs={"bad": ["5"]},
        flow={"batch": {"size": 8, "window_s": 20, "bisect": True}},
        retry={"max_attempts": 2, "first_delay_s": 0.01},
    )
    for n in range(8):
        desk.publish(kind, str(n))
    letter = desk.dead_letter(subscription)
    assert letter["event_id"] == "5"
    eventually(lambda: drained(desk, subscription), 10)
    batches = [sorted(names) for _, what, names in notes.runs if what == "begin"]
    assert batches[0] == [str(n) for n in range(8)]
    assert batches.count(["5"]) == 2
    ended = [name for _, what, names in notes.runs if what == "end" for name in names]
    assert sorted(ended) == ["0", "1", "2", "3", "4", "6", "7"]


def test_only_those_are_tried_again_that_the_function_reports(desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    subscription = desk.subscribe(
        kind,
        notes,
        "{{ events }}",
        kwargs={"bad": ["1", "2"], "report": True},
        flow={"batch": {"size": 4, "window_s": 20, "partial_failures": True}},
        retry={"max_attempts": 2, "first_delay_s": 0.01},
    )
    for n in range(4):
        desk.publish(kind, str(n))
    eventually(lambda: len(desk.dead_letters(subscription)) == 2, 10)
    assert sorted(each["event_id"] for each in desk.dead_letters(subscription)) == ["1", "2"]
    eventually(lambda: drained(desk, subscription), 10)
    batches = [sorted(names) for _, what, names in notes.runs if what == "begin"]
    assert batches == [["0", "1", "2", "3"], ["1", "2"]]


def test_the_more_important_subscription_of_a_share_goes_first(desk: EventsDesk, kind: str, tmp_path: Path) -> None:
    notes, gate = desk.notes(), tmp_path / "gate"
    share = f"share-{time.time_ns()}"
    subscriptions = {}
    for name, priority in (("low", 0), ("high", 5)):
        subscriptions[name] = desk.subscribe(
            f"{kind}.{name}",
            notes,
            "{{ event }}",
            kwargs={"gate": str(gate)},
            flow={"share": share, "concurrency": 1, "priority": priority},
        )
    desk.publish(f"{kind}.low", "first")
    notes.wait(1)
    for n in range(3):
        desk.publish(f"{kind}.low", f"low{n}")
    for n in range(3):
        desk.publish(f"{kind}.high", f"high{n}")
    eventually(lambda: read(desk, subscriptions["high"])["queue"]["depth"] == 3, 10)
    gate.touch()
    notes.wait(14)
    begun = [name for _, what, (name,) in notes.runs if what == "begin"]
    assert begun[0] == "first"
    assert sorted(begun[1:4]) == ["high0", "high1", "high2"]


def test_what_waits_flows_as_its_owner_says_now(desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    subscription = desk.subscribe(
        kind,
        notes,
        input={"args": [str(notes.path), "{{ events if events is defined else event }}"], "kwargs": {"bad": ["1"]}},
        flow={"batch": {"size": 2, "window_s": 20}},
        retry={"max_attempts": 2, "first_delay_s": 0.5},
    )
    for n in range(2):
        desk.publish(kind, str(n))
    eventually(lambda: read(desk, subscription)["queue"]["failing"], 10)
    assert change(desk, subscription, flow=None)["flow"] is None
    assert desk.dead_letter(subscription)["event_id"] == "1"
    eventually(lambda: drained(desk, subscription), 10)
    assert sorted((what, *names) for _, what, names in notes.runs if len(names) == 1 and what != "begin") == [
        ("end", "0"),
        ("failed", "1"),
    ]
    change(desk, subscription, paused=True)
    heard = desk.notes()
    desk.unsubscribe(delivered(desk, f"{kind}.heard", heard))
    for n in range(2, 6):
        desk.publish(kind, str(n), subject="same")
    change(desk, subscription, paused=False, flow={"order_by": "subject"})
    notes.wait(14, 20)  # A queue is empty, too, while nothing of what was published has come to it.
    eventually(lambda: drained(desk, subscription), 20)
    assert [names[0] for _, what, names in notes.runs if what == "end"] == ["0", "2", "3", "4", "5"]
    assert sum(what == "failed" for _, what, _ in notes.runs) == 2, "what was done is not begun again"
