"""What a waiting action finds follows from the events of its bus, however they are shown to it."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.eventing.arrivals import Arrived
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.waits import MOST_SHOWN_BYTES, Wait, found_details, success, too_late
from headrace.bus.store.actions import ActionRecord, EventWait
from headrace.bus.store.records import Record

WANTED, OTHER = "wanted", "other"


def arrived(sequence: int, kind: str = WANTED, at: float = 0.0, **more: Any) -> Arrived:
    """An event as it lies on the bus."""
    document = {"specversion": "1.0", "id": str(sequence), "source": "/s", "type": kind, **more}
    return Arrived(sequence, at, CloudEvent.of_document(document))


def waiting(count: int = 1, since: int = 0, deadline: float | None = None) -> Wait:
    """An action that has begun to wait."""
    wait = EventWait(bus="default", filter={"exact": {"type": WANTED}}, since=since, position=since, count=count)
    record = ActionRecord(
        action_id="a",
        provider="p",
        creator="c",
        request_id="r",
        request_digest="d",
        started_at=0.0,
        wait=wait,
        deadline=deadline,
    )
    return Wait(Record("k", record, 1))


@st.composite
def buses(draw: st.DrawFn) -> list[Arrived]:
    """The events of a bus, whose sequences have gaps; some cannot be read."""
    sequences = sorted(draw(st.sets(st.integers(1, 40))))
    kinds = draw(st.lists(st.sampled_from([WANTED, OTHER, "unreadable"]), min_size=40, max_size=40))
    return [
        Arrived(sequence, float(sequence), None) if kind == "unreadable" else arrived(sequence, kind, float(sequence))
        for sequence, kind in zip(sequences, kinds, strict=False)
    ]


@given(
    buses(),
    st.integers(1, 4),
    st.integers(0, 40),
    st.none() | st.integers(0, 40),
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30),
)
def test_whoever_looks_finds_the_first_that_fit_in_the_order_of_the_bus(
    bus: list[Arrived], count: int, since: int, deadline: int | None, steps: list[tuple[int, bool]]
) -> None:
    """Two services look at the same; each now and then adopts what the other has written, and one is restarted."""
    limit = None if deadline is None else float(deadline)
    looking = [waiting(count, since, limit), waiting(count, since, limit)]
    for number, adopts in [*steps, (3, False), (3, True)]:
        one, other = (looking[0], looking[1]) if number % 2 else (looking[1], looking[0])
        if adopts:
            record = msgspec.structs.replace(other.row.value, wait=other.state)
            one.adopt(Record("k", record, 2))
        page = [each for each in bus if each.sequence > one.state.position][: number + (40 if number == 3 else 0)]
        for each in page:
            one.take(each)
        if page:
            one.looked(page[-1].sequence)
        state = one.state
        expected = [
            each.sequence
            for each in bus
            if since < each.sequence <= state.position
            and each.event is not None
            and each.event.type == WANTED
            and (limit is None or each.stored_at <= limit)
        ]
        assert [each.sequence for each in state.found] == expected[:count]
    assert looking[1].complete == (len(looking[1].state.found) == count)


@given(st.lists(st.integers(0, 60_000), min_size=1, max_size=6))
def test_an_action_never_shows_more_than_fits_into_a_flow(sizes: list[int]) -> None:
    wait = waiting(count=len(sizes))
    for sequence, size in enumerate(sizes, 1):
        wait.take(arrived(sequence, data="x" * size))

    record = success(wait.row.value, wait.state)

    assert wait.complete
    assert sum(each.size for each in wait.state.found) <= MOST_SHOWN_BYTES
    assert record.details is not None
    assert [event["id"] for event in record.details["events"]] == [str(n) for n in range(1, len(sizes) + 1)]
    shown = {n for n, event in enumerate(record.details["events"], 1) if "data" in event}
    assert shown | set(record.details.get("data_left_out", ())) == set(range(1, len(sizes) + 1))


def test_what_was_found_says_where_a_later_wait_goes_on() -> None:
    wait = waiting(count=2, since=5)
    assert found_details(wait.state)["last_sequence"] == 5

    wait.take(arrived(7))

    assert found_details(wait.state)["last_sequence"] == 7
    ended = too_late(wait.row.value, wait.state)
    assert ended.details is not None
    assert ended.details["description"] == "Until the deadline 1 of 2 events came that the filter lets pass"
