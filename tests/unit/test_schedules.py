"""When schedules tick: cron lines, zones, daylight saving time, jitter, and what becomes of missed ticks."""

from __future__ import annotations

import datetime
import itertools
import uuid
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.bus.errors import ScheduleInvalid
from headrace.bus.eventing.schedules.cron import Cron
from headrace.bus.eventing.schedules.due import due
from headrace.bus.eventing.schedules.models import ScheduleRecord
from headrace.bus.eventing.schedules.requests import record_of
from headrace.bus.eventing.schedules.ticks import tick_event
from headrace.bus.eventing.schedules.timing import CronTicks, Timing, instant, milliseconds, of_wall
from headrace.schemas import SchemaViolation, validate

NOW = milliseconds(datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC))
ID = uuid.UUID("7f9c24e8-3b12-4fef-91e0-1b2c3d4e5f60")
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Asia/Kathmandu",
    "Africa/Cairo",
)


def record(now_ms: int = NOW, **body: Any) -> ScheduleRecord:
    validate("schedule-request", body)
    return record_of(body, schedule_id=ID, owner="urn:headrace:user:ada", now_ms=now_ms)


def ticks(count: int, now_ms: int = NOW, **body: Any) -> list[str]:
    timing = Timing.of(record(now_ms, **body))
    return [instant(each).isoformat() for each in itertools.islice(timing.ticks(now_ms, 1 << 62), count)]


def local(zone: str, line: str, since: str, count: int) -> list[str]:
    time = datetime.datetime.fromisoformat(since).replace(tzinfo=ZoneInfo(zone)).astimezone(datetime.UTC)
    found, times = CronTicks(Cron(line), ZoneInfo(zone)), []
    for _ in range(count):
        following = found.after(time)
        assert following is not None
        time = following
        times.append(time.astimezone(ZoneInfo(zone)).isoformat())
    return times


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("30 6 * * 1-5", ["2026-03-02T06:30", "2026-03-03T06:30"]),  # 1 March 2026 is a Sunday
        ("0 0 * * 0", ["2026-03-01T00:00", "2026-03-08T00:00"]),
        ("0 0 * * 7", ["2026-03-01T00:00", "2026-03-08T00:00"]),
        ("0 0 * * sun", ["2026-03-01T00:00", "2026-03-08T00:00"]),
        ("0 0 * * 5-7", ["2026-03-01T00:00", "2026-03-06T00:00"]),
        ("0 0 13 * fri", ["2026-03-06T00:00", "2026-03-13T00:00"]),  # either, as cron has it
        ("0 0 */10 * *", ["2026-03-01T00:00", "2026-03-11T00:00"]),
        ("0 0 1 jan,jul *", ["2026-07-01T00:00", "2027-01-01T00:00"]),
        ("0 12 29 2 *", ["2028-02-29T12:00", "2032-02-29T12:00"]),
        ("5/20 * * * *", ["2026-03-01T00:05", "2026-03-01T00:25"]),
        ("@monthly", ["2026-03-01T00:00", "2026-04-01T00:00"]),
        ("15 30 4 * * *", ["2026-03-01T04:30:15", "2026-03-02T04:30:15"]),
    ],
)
def test_a_cron_line_means_what_cron_means(line: str, expected: list[str]) -> None:
    cron, wall, found = Cron(line), datetime.datetime(2026, 3, 1), []  # noqa: DTZ001  # a wall clock has no zone
    for _ in expected:
        time = cron.next(wall)
        assert time is not None
        found.append(time)
        wall = time + datetime.timedelta(seconds=1)
    assert found == [datetime.datetime.fromisoformat(each) for each in expected]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("* * * *", "five fields"),
        ("60 * * * *", "minute '60'"),
        ("* 24 * * *", "hour '24'"),
        ("* * 0 * *", "day of month"),
        ("* * * 13 *", "month '13'"),
        ("* * * * 8", "day of week"),
        ("*/0 * * * *", "at least 1"),
        ("5-1 * * * *", "ends before"),
        ("x * * * *", "not a number"),
        ("1,,2 * * * *", "expected"),
        ("@never", "five fields"),
        ("9" * 300, "five fields"),
    ],
)
def test_a_wrong_cron_line_is_refused_with_its_field(line: str, words: str) -> None:
    with pytest.raises(ScheduleInvalid, match=words) as caught:
        Cron(line)
    assert caught.value.pointer == "/cron"


def test_a_time_that_the_clock_jumps_over_ticks_at_the_jump_once() -> None:
    assert local("Europe/Berlin", "30 2 * * *", "2026-03-28T12:00", 2) == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]
    assert local("Europe/Berlin", "0,15,30 2 * * *", "2026-03-28T12:00", 2) == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:00:00+02:00",
    ]


def test_a_time_that_the_clock_shows_twice_ticks_the_first_time() -> None:
    assert local("Europe/Berlin", "30 2 * * *", "2026-10-24T12:00", 2) == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]


def test_a_line_for_every_hour_follows_time_as_it_passes() -> None:
    assert local("Europe/Berlin", "30 * * * *", "2026-10-25T01:00", 4) == [
        "2026-10-25T01:30:00+02:00",
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T02:30:00+01:00",
        "2026-10-25T03:30:00+01:00",
    ]
    assert local("Europe/Berlin", "30 * * * *", "2026-03-29T01:00", 2) == [
        "2026-03-29T01:30:00+01:00",
        "2026-03-29T03:30:00+02:00",
    ]


def test_a_day_that_a_zone_never_had_ticks_once_at_its_midnight() -> None:
    # Samoa went from the 29th of December 2011 to the 31st.
    assert local("Pacific/Apia", "0 6 * * *", "2011-12-29T00:00", 3) == [
        "2011-12-29T06:00:00-10:00",
        "2011-12-31T00:00:00+14:00",
        "2011-12-31T06:00:00+14:00",
    ]


@settings(max_examples=40, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
    day=st.dates(datetime.date(2011, 10, 1), datetime.date(2030, 1, 1)),
)
def test_a_daily_line_ticks_once_for_each_day_in_any_zone(
    zone: str, hour: int, minute: int, day: datetime.date
) -> None:
    tz = ZoneInfo(zone)
    wall = datetime.datetime.combine(day, datetime.time(hour, minute))
    daily, time, found = CronTicks(Cron(f"{minute} {hour} * * *"), tz), of_wall(wall, tz), []
    for _ in range(40):
        following = daily.after(time)
        assert following is not None
        assert following > time
        # Whoever asks at any moment in between gets the same tick.
        assert daily.after(time + (following - time) / 2) == following
        assert daily.after(following - datetime.timedelta(milliseconds=1)) == following
        found.append(following)
        time = following
    expected = {of_wall(wall + datetime.timedelta(days=n), tz) for n in range(1, 41)}
    assert found[:39] == sorted(expected)[:39]


@settings(max_examples=40, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    minute=st.integers(0, 59),
    begin=st.datetimes(datetime.datetime(2009, 1, 1), datetime.datetime(2035, 1, 1)),  # noqa: DTZ001  # hypothesis asks
)
def test_an_hourly_line_ticks_whenever_a_clock_in_the_zone_shows_its_minute(
    zone: str, minute: int, begin: datetime.datetime
) -> None:
    tz = ZoneInfo(zone)
    time = begin.replace(tzinfo=datetime.UTC, microsecond=0)
    hourly, following = CronTicks(Cron(f"{minute} * * * *"), tz), time
    for _ in range(30):
        tick = hourly.after(following)
        assert tick is not None
        shown = tick.astimezone(tz)
        assert (shown.minute, shown.second) == (minute, 0)
        # None was left out: no minute in between shows it.
        between = following + datetime.timedelta(minutes=1)
        between = between.replace(second=0)
        while between < tick:
            assert between.astimezone(tz).minute != minute or between <= following
            between += datetime.timedelta(minutes=1)
        following = tick


def test_intervals_count_from_their_start_and_keep_their_phase() -> None:
    assert ticks(2, every_s=90, start="2026-03-01T00:00:30Z") == [
        "2026-03-01T00:00:30+00:00",
        "2026-03-01T00:02:00+00:00",
    ]
    later = Timing.of(record(every_s=90)).next(NOW + 10 * 90_000 - 1)
    assert later == NOW + 10 * 90_000


def test_a_schedule_for_one_time_ticks_once_in_its_zone() -> None:
    assert ticks(5, at="2026-07-01T06:00:00", timezone="Europe/Berlin") == ["2026-07-01T04:00:00+00:00"]
    assert ticks(5, at="2026-07-01T06:00:00Z") == ["2026-07-01T06:00:00+00:00"]


def test_start_and_end_bound_the_ticks() -> None:
    bounds: dict[str, Any] = {"start": "2026-03-02T00:00:00Z", "end": "2026-03-03T00:00:00Z"}
    assert ticks(5, cron="0 */12 * * *", **bounds) == [
        "2026-03-02T00:00:00+00:00",
        "2026-03-02T12:00:00+00:00",
        "2026-03-03T00:00:00+00:00",
    ]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, ""),
        ({"cron": "* * * * *", "every_s": 5}, ""),
        ({"cron": "0 0 30 2 *"}, "/cron"),
        ({"cron": "* * * * *", "timezone": "Mars/Olympus"}, "/timezone"),
        ({"cron": "* * * * *", "timezone": "../../etc/passwd"}, "/timezone"),
        ({"cron": "* * * * *", "start": "yesterday"}, "/start"),
        ({"cron": "* * * * *", "end": "2026-02-01T00:00:00Z"}, "/end"),
        ({"at": "2026-02-01T00:00:00Z"}, "/at"),
        ({"at": "2026-04-01T00:00:00Z", "end": "2026-05-01T00:00:00Z"}, "/at"),
        ({"every_s": 5, "jitter_s": 5}, "/jitter_s"),
    ],
)
def test_what_can_never_tick_is_refused_with_its_place(body: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ScheduleInvalid) as caught:
        record(**body)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize(
    "body",
    [
        {"misfire": "sometimes"},
        {"overlap": "forbid"},
        {"event": {"id": "1"}},
        {"event": {"scheduledtime": "x"}},
        {"event": {"Upper": "x"}},
        {"every_s": 0.5},
        {"unknown": 1},
    ],
)
def test_unknown_policies_and_attributes_that_are_the_ticks_own_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(SchemaViolation):
        record(**{"every_s": 5, **body})


def test_an_event_that_is_none_is_refused_with_its_place() -> None:
    with pytest.raises(SchemaViolation) as caught:
        record(every_s=5, event={"source": "white space"})
    assert caught.value.violations[0].pointer == "/event/source"


def test_the_event_of_a_tick_follows_from_schedule_and_tick_alone() -> None:
    made = record(every_s=5, jitter_s=2, event={"type": "org.example.t", "subject": "s", "data": {"n": 1}, "site": "a"})
    timing = Timing.of(made)
    event = tick_event(made, timing, NOW + 5000)
    assert event.document == tick_event(made, Timing.of(made), NOW + 5000).document
    assert event.id == f"{ID}@2026-03-01T00:00:05Z"
    assert event.source == f"/schedules/{ID}"
    assert event.attributes["scheduledtime"] == "2026-03-01T00:00:05Z"
    assert (event.type, event.attributes["site"], event.document["data"]) == ("org.example.t", "a", {"n": 1})


@given(jitter=st.integers(1, 10_000), tick=st.integers(0, 1 << 42))
def test_a_jitter_is_the_same_for_every_replica_and_within_its_bounds(jitter: int, tick: int) -> None:
    body: dict[str, Any] = {"every_s": 100, "jitter_s": jitter / 1000}
    delay = Timing.of(record(**body)).due(tick) - tick
    assert 0 <= delay <= jitter
    assert Timing.of(record(**body)).due(tick) - tick == delay


def after_an_outage(policy: str, minutes: float = 10, **more: Any) -> tuple[list[int], int, int]:
    """The minutes of the ticks, how many are given up, and up to which minute all is settled."""
    made = record(cron="* * * * *", misfire=policy, grace_s=90, **more)
    found = due(made, Timing.of(made), after_ms=NOW, now_ms=NOW + round(minutes * 60_000))
    return [(tick - NOW) // 60_000 for tick in found.ticks], found.missed, (found.upto_ms - NOW) // 60_000


def test_missed_ticks_are_skipped_or_made_up_for_once_or_all() -> None:
    # At 10:00 the ticks of 9:00 and 10:00 are within the 90 seconds of grace.
    assert after_an_outage("skip") == ([9, 10], 8, 10)
    assert after_an_outage("once") == ([8, 9, 10], 7, 10)
    assert after_an_outage("all") == ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0, 10)


def test_making_up_for_all_has_a_limit_and_keeps_the_latest() -> None:
    assert after_an_outage("all", most_missed=3) == ([6, 7, 8, 9, 10], 5, 10)


def test_nothing_is_due_before_its_time() -> None:
    made = record(cron="* * * * *")
    found = due(made, Timing.of(made), after_ms=NOW, now_ms=NOW + 59_999)
    assert (found.ticks, found.upto_ms, found.next_ms) == ((), NOW, NOW + 60_000)


@pytest.mark.parametrize("policy", ["skip", "once", "all"])
def test_a_very_long_outage_is_settled_with_bounded_work(policy: str) -> None:
    made = record(cron="* * * * * *", misfire=policy, grace_s=1)
    now_ms = NOW + 400 * 86_400_000
    found = due(made, Timing.of(made), after_ms=NOW, now_ms=now_ms)
    assert len(found.ticks) <= 103
    assert found.upto_ms == now_ms
    assert found.missed == 1000  # counted no further


@settings(max_examples=50, deadline=None)
@given(
    policy=st.sampled_from(["skip", "once", "all"]),
    jitter=st.integers(0, 50),
    grace=st.integers(1, 200),
    steps=st.lists(st.integers(1, 600_000), min_size=1, max_size=12),
)
def test_whatever_the_policy_no_tick_comes_twice_or_too_soon_and_all_are_accounted_for(
    policy: str, jitter: int, grace: int, steps: list[int]
) -> None:
    made = record(cron="* * * * *", misfire=policy, grace_s=grace, jitter_s=jitter, most_missed=1000)
    timing, after_ms, now_ms, missed = Timing.of(made), NOW, NOW, 0
    published: list[int] = []
    for step in steps:
        now_ms += step
        found = due(made, timing, after_ms=after_ms, now_ms=now_ms)
        assert all(timing.due(tick) <= now_ms for tick in found.ticks)
        assert found.next_ms is not None
        assert timing.due(found.next_ms) > now_ms
        assert found.upto_ms >= after_ms
        published += found.ticks
        missed += found.missed
        after_ms = found.upto_ms
    assert published == sorted(set(published))
    assert len(published) + missed == sum(1 for _ in timing.ticks(NOW, after_ms))
    if policy == "all":
        assert missed == 0
