"""Schedules as they are kept: what their owner wants, and how far they have come."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

import msgspec

from headrace.bus.eventing.events import DEFAULT_BUS

Misfire = Literal["skip", "once", "all"]
"""What becomes of ticks that nobody was there to publish: nothing, one event for the last of them, or one for each."""

Overlap = Literal["allow", "skip", "queue", "replace"]
"""What becomes of a tick while what an earlier one has started still runs: its event is published all the same, never,
when that has ended, or in its place."""


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
    most_queued: int = 100
    """How many ticks wait at most (`queue`); later ones are skipped."""


class TickRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What follows from one tick: the deliveries of its event. They run until each of them has ended for good."""

    tick_ms: int
    bus: str = DEFAULT_BUS
    source: str = ""
    """The source of its event."""
    sequence: int = 0
    """The place of its event on the bus; 0 until that is stored, and known to be."""
    matched: bool = False
    """Whether it is known which subscriptions get the event."""
    started: tuple[UUID, ...] = ()
    """Those subscriptions."""
    ended: tuple[UUID, ...] = ()
    """Those whose delivery has succeeded, or was given up."""

    @property
    def open(self) -> tuple[UUID, ...]:
        """The subscriptions whose delivery has not ended."""
        ended = set(self.ended)
        return tuple(each for each in self.started if each not in ended)


class ScheduleProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a schedule has come, and what goes on. `last_ms` and the counts only ever grow."""

    last_ms: int = 0
    """Nothing is published any more for ticks up to this one."""
    fired_ms: int | None = None
    """The last tick of which an event was published."""
    sequence: int = 0
    """The events of the bus that are later than this may hold ticks that are not recorded here."""
    missed: int = 0
    """How many ticks were missed and never published."""
    run: TickRun | None = None
    """What the last tick has started. Only schedules that look at it have one: all but those that `allow` overlaps."""
    replaced_run: TickRun | None = None
    """What is to be cancelled before the event of `run` is stored."""
    replaced_ms: int = 0
    """What ticks up to this one started is to end, and nothing of it is tried again."""
    replaced: int = 0
    """How many runs were cut short by the next tick."""
    queued: tuple[int, ...] = ()
    """Ticks that wait for the end of the run, the first one first."""
    skipped: int = 0
    """How many ticks were never published because an earlier one's run went on."""
    last_skipped_ms: int | None = None
