"""Replays as records: what is missing is counted once and named; what they show of an event is marked."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.replays.models import MOST_GAPS, ReplayRecord, marked

REPLAY = ReplayRecord(replay_id=uuid.uuid4(), name="r", owner="urn:x:me", created_at=0.0, after=0, last=10_000)
EVENT = CloudEvent.of_document({"id": "1", "source": "/s", "specversion": "1.0", "type": "t", "data": 1})


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.sampled_from(["expired", "deleted"])), max_size=300))
def test_missing_events_are_counted_once_and_the_first_gaps_are_named(steps: list[tuple[int, int, str]]) -> None:
    record, missing = REPLAY, 0
    named: set[int] = set()
    for there, gone, reason in steps:
        first = record.position + there + 1
        last = first + gone - 1
        record = record.without(first, last, "expired" if reason == "expired" else "deleted")
        missing += gone
        if len(record.gaps) < MOST_GAPS:
            named |= set(range(first, last + 1))

    assert (record.missing, len(record.gaps) <= MOST_GAPS) == (missing, True)
    told = {sequence for gap in record.gaps for sequence in range(gap.first, gap.last + 1)}
    assert named <= told
    assert all(before.last < after.first for before, after in zip(record.gaps, record.gaps[1:], strict=False))


def test_a_replayed_event_is_marked_and_the_stored_one_is_not() -> None:
    mark = uuid.uuid4()
    shown = marked(EVENT, mark)

    assert shown.document == {**EVENT.document, "replayid": str(mark)}
    assert shown.attributes["replayid"] == str(mark)
    assert "replayid" not in EVENT.document
    assert marked(EVENT, None) is EVENT


def test_each_replay_has_deliveries_of_its_own() -> None:
    other = ReplayRecord(replay_id=uuid.uuid4(), name="r", owner="urn:x:me", created_at=0.0, after=0, last=1)
    ids = {each.delivery(1, EVENT).bundle_id(uuid.UUID(int=7)) for each in (REPLAY, REPLAY, other)}

    assert len(ids) == 2
