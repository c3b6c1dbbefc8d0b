"""Overlap policies: what becomes of due ticks while a run goes on, and which tick an event is."""

from __future__ import annotations

import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.eventing.schedules.due import Due
from headrace.bus.eventing.schedules.models import Overlap, ScheduleProgress, ScheduleRecord, TickRun
from headrace.bus.eventing.schedules.overlaps import decided
from headrace.bus.eventing.schedules.runs import tick_of
from headrace.bus.eventing.schedules.ticks import tick_id

MOST_QUEUED = 3


def record(overlap: Overlap) -> ScheduleRecord:
    return ScheduleRecord(
        schedule_id=uuid.UUID(int=7),
        name="n",
        owner="urn:headrace:user:ada",
        created_at=0,
        event={"source": "/s", "type": "t"},
        from_ms=0,
        every_ms=1000,
        overlap=overlap,
        most_queued=MOST_QUEUED,
    )


@given(
    st.sampled_from(("skip", "queue", "replace")),
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30),
)
def test_each_tick_is_published_queued_or_counted_and_never_two_run_at_once(
    overlap: Overlap, looks: list[tuple[int, bool]]
) -> None:
    progress, now, published, going = ScheduleProgress(), 0, list[int](), False
    for count, ends in looks:
        going = going and not ends
        ticks = tuple(range(now + 1, now + count + 1))
        now += count
        before = progress
        progress = decided(record(overlap), before, Due(ticks, now, 0, now + 1), over=not going)
        if progress.run != before.run:
            assert progress.run is not None
            assert not going or overlap == "replace"
            assert (progress.replaced == before.replaced + 1) == going
            published.append(progress.run.tick_ms)
            going = True
        # A free place is never left empty.
        assert going or not progress.queued
        assert len(progress.queued) <= (MOST_QUEUED if overlap == "queue" else 0)
    assert published == sorted(set(published))
    assert len(published) + len(progress.queued) + progress.skipped == now == progress.last_ms


def test_a_run_that_is_replaced_is_told_apart_from_one_that_has_ended() -> None:
    before = ScheduleProgress(
        run=TickRun(tick_ms=1, source="/s", sequence=9, matched=True, started=(uuid.UUID(int=1),))
    )
    cut = decided(record("replace"), before, Due((2, 3), 3, 0, 4), over=False)
    assert (cut.replaced_run, cut.replaced_ms, cut.replaced, cut.skipped) == (before.run, 1, 1, 1)
    assert cut.run == TickRun(tick_ms=3, source="/s")
    done = decided(record("replace"), before, Due((2,), 2, 0, 3), over=True)
    assert (done.replaced_run, done.replaced_ms, done.replaced) == (None, 0, 0)


@given(st.uuids(), st.integers(0, 4_000_000_000_000))
def test_the_id_of_a_tick_leads_back_to_schedule_and_tick(schedule: uuid.UUID, tick_ms: int) -> None:
    assert tick_of(tick_id(schedule, tick_ms)) == (schedule, tick_ms)


@pytest.mark.parametrize(
    "event_id",
    [
        "1",
        "a@b",
        f"{uuid.UUID(int=7)}@yesterdayZ",
        f"{uuid.UUID(int=7)}@2026-03-01T00:00:00",
        "x" * 36 + "@2026-03-01T00:00:00Z",
    ],
)
def test_other_ids_are_no_ticks(event_id: str) -> None:
    assert tick_of(event_id) is None


def test_open_is_what_has_started_and_not_ended() -> None:
    one, two = uuid.UUID(int=1), uuid.UUID(int=2)
    run = TickRun(tick_ms=1, started=(one, two), ended=(one,))
    assert run.open == (two,)
    assert msgspec.structs.replace(run, ended=(two, one)).open == ()
