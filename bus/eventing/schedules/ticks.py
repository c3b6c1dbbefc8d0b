"""Ticks as events. Everything in one follows from schedule and tick, so whoever publishes it publishes the same."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from headrace.bus.errors import PayloadTooLarge
from headrace.bus.eventing.events import MOST_EVENT_BYTES, CloudEvent
from headrace.bus.eventing.schedules.models import ScheduleRecord
from headrace.bus.eventing.schedules.timing import Timing, instant

TYPE: Final = "headrace.schedule.tick"
"""The type of ticks whose schedule names none."""


def template(schedule_id: UUID, given: dict[str, Any]) -> dict[str, Any]:
    """The event of a schedule with what its owner has left out."""
    return {"source": f"/schedules/{schedule_id}", "type": TYPE, **given}


def written(tick_ms: int) -> str:
    """An instant as RFC 3339 has it, in UTC; with milliseconds where there are any."""
    exact = "milliseconds" if tick_ms % 1000 else "seconds"
    return instant(tick_ms).isoformat(timespec=exact).replace("+00:00", "Z")


def tick_event(record: ScheduleRecord, timing: Timing, tick_ms: int) -> CloudEvent:
    """The event of a tick. Raises `SchemaViolation` where the schedule's event is none, and `PayloadTooLarge`."""
    event = CloudEvent.of_document(
        {
            **record.event,
            "specversion": "1.0",
            "id": tick_id(record.schedule_id, tick_ms),
            "time": written(timing.due(tick_ms)),
            "scheduleid": str(record.schedule_id),
            "scheduledtime": written(tick_ms),
        }
    )
    size = len(event.encode())
    if size > MOST_EVENT_BYTES:
        raise PayloadTooLarge(
            f"the event of the schedule has {size} bytes; at most {MOST_EVENT_BYTES} are taken",
            size=size,
            limit=MOST_EVENT_BYTES,
        )
    return event


def tick_id(schedule_id: UUID, tick_ms: int) -> str:
    """The id of a tick's event."""
    return f"{schedule_id}@{written(tick_ms)}"
