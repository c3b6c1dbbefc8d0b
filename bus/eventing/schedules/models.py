"""Schedules as they are kept: what their owner wants, and how far they have come."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

import msgspec

from headrace.bus.eventing.events import DEFAULT_BUS

Misfire = Literal["skip", "once", "all"]
"""What becomes of ticks that nobody was there to publish: nothing, one event for the last of them, or one for each."""

Overlap = Literal["allow"]
"""Whether a tick is published while what an earlier one has started still runs."""


class ScheduleRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One schedule. Exactly one of `cron` and `every_ms` is set, or none: then it ticks once, at `from_ms`.

    Instants are whole milliseconds since 1970.
    """

    schedule_id: UUID
    name: str
    owner: str
    created_at: float
    event: dict[str, Any]
    """The event's attributes and data, without what each tick adds."""
    from_ms: int
    until_ms: int | None = None
    cron: str | None = None
    timezone: str = "UTC"
    every_ms: int | None = None
    jitter_ms: int = 0
    misfire: Misfire = "once"
    grace_ms: int = 60_000
    """A tick that is later than this was missed."""
    most_missed: int = 100
    """How many missed ticks are published at most (`all`): the latest ones."""
    overlap: Overlap = "allow"
    bus: str = DEFAULT_BUS
    paused: bool = False
    after_ms: int = 0
    """Ticks up to here are none: it was made, or went on after a pause, then."""


class ScheduleProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a schedule has come. Only ever grows."""

    last_ms: int = 0
    """Nothing is published any more for ticks up to this one."""
    fired_ms: int | None = None
    """The last tick of which an event was published."""
    sequence: int = 0
    """The events of the bus that are later than this may hold ticks that are not recorded here."""
    missed: int = 0
    """How many ticks were missed and never published."""
