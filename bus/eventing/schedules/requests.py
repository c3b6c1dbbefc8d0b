"""From what an owner asks for to a record, checked as a whole: what is accepted ticks."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from headrace.bus.errors import ScheduleInvalid
from headrace.bus.eventing.events import DEFAULT_BUS
from headrace.bus.eventing.schedules.models import ScheduleRecord
from headrace.bus.eventing.schedules.ticks import template, tick_event
from headrace.bus.eventing.schedules.timing import Timing, milliseconds, of_wall, zone
from headrace.schemas import SchemaViolation, Violation

_TIMES: Final = ("cron", "every_s", "at")
_DEFAULT_GRACE_S = 60.0
_DEFAULT_MOST_MISSED = 100
_DEFAULT_MOST_QUEUED = 100


def record_of(body: Mapping[str, Any], *, schedule_id: UUID, owner: str, now_ms: int) -> ScheduleRecord:
    """The record of a new schedule; `body` satisfies `schedule-request`.

    Raises `ScheduleInvalid` for times that cannot be, `SchemaViolation` for an event that is none, `PayloadTooLarge`.
    """
    given = [name for name in _TIMES if body.get(name) is not None]
    if len(given) != 1:
        raise ScheduleInvalid(
            f"a schedule has exactly one of cron, every_s and at; this one has {' and '.join(given) or 'none'}"
        )
    kind = given[0]
    if kind == "at" and (body.get("start") is not None or body.get("end") is not None):
        raise ScheduleInvalid("a schedule that ticks once, `at` a time, has neither start nor end", pointer="/at")
    timezone = body.get("timezone") or "UTC"
    name = "at" if kind == "at" else "start"
    from_ms = _instant(body, name, timezone)
    record = ScheduleRecord(
        schedule_id=schedule_id,
        name=body.get("name") or body.get("cron") or kind,
        owner=owner,
        created_at=now_ms / 1000,
        event=template(schedule_id, body.get("event") or {}),
        from_ms=now_ms if from_ms is None else from_ms,
        until_ms=_instant(body, "end", timezone),
        cron=body.get("cron"),
        timezone=timezone,
        every_ms=None if body.get("every_s") is None else round(body["every_s"] * 1000),
        jitter_ms=round(body.get("jitter_s", 0) * 1000),
        misfire=body.get("misfire", "once"),
        grace_ms=round(body.get("grace_s", _DEFAULT_GRACE_S) * 1000),
        most_missed=body.get("most_missed", _DEFAULT_MOST_MISSED),
        overlap=body.get("overlap", "allow"),
        paused=body.get("paused", False),
        bus=body.get("bus") or DEFAULT_BUS,
        after_ms=now_ms,
        most_queued=body.get("most_queued", _DEFAULT_MOST_QUEUED),
    )
    _check(record, name)
    return record


def _check(record: ScheduleRecord, name: str) -> None:
    if record.every_ms is not None and record.jitter_ms >= record.every_ms:
        raise ScheduleInvalid("a jitter is shorter than the interval; ticks keep their order", pointer="/jitter_s")
    timing = Timing.of(record)
    first = timing.next(record.after_ms)
    if first is None:
        at = "end" if record.until_ms is not None else "cron" if record.cron is not None else name
        raise ScheduleInvalid("this schedule never ticks: there is no time from now on that fits", pointer=f"/{at}")
    try:
        tick_event(record, timing, first)
    except SchemaViolation as error:
        raise SchemaViolation(
            "schedule-event",
            tuple(Violation(pointer=f"/event{each.pointer}", problem=each.problem) for each in error.violations),
        ) from error


def _instant(body: Mapping[str, Any], name: str, timezone: str) -> int | None:
    text = body.get(name)
    if text is None:
        return None
    try:
        time = datetime.datetime.fromisoformat(text)
        if time.tzinfo is None:
            # As a clock there shows it; to the second, as changes of clocks are.
            time = of_wall(time.replace(microsecond=0), zone(timezone))
        return milliseconds(time)
    except (ValueError, OverflowError):
        raise ScheduleInvalid(
            f"{text[:64]!r} is not a time as RFC 3339 has it, such as 2026-03-01T06:30:00Z or, in the time zone of the"
            " schedule, 2026-03-01T06:30:00",
            pointer=f"/{name}",
        ) from None
