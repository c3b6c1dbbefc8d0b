"""When a schedule's ticks are: at instants in whole milliseconds since 1970, so that every replica names a tick alike.

Zones and daylight saving time. A cron line is about a wall clock, which jumps. The rule:

- A line that fits every hour of the day (`*/15 * * * *`) follows time as it passes: it ticks in both of the hours that
  a clock shows twice, and not for times that a clock jumps over.
- Any other line ticks once for each time that it names: the first time when the clock shows it twice, and at the
  moment of the jump when the clock never shows it. Several that fall into one jump are one tick.

Intervals count seconds that pass, whatever clocks show.
"""

from __future__ import annotations

import datetime
import hashlib
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from headrace.bus.errors import ScheduleInvalid
from headrace.bus.eventing.schedules.cron import Cron
from headrace.bus.eventing.schedules.models import ScheduleRecord

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND = datetime.timedelta(milliseconds=1)
_SECOND = datetime.timedelta(seconds=1)
_DAY = datetime.timedelta(days=1)
_LAST_YEAR = 9000


def instant(milliseconds: int) -> datetime.datetime:
    """Milliseconds since 1970 as a time in UTC."""
    return _EPOCH + milliseconds * _MILLISECOND


def milliseconds(time: datetime.datetime) -> int:
    """A time with a zone in milliseconds since 1970, rounded down."""
    return (time - _EPOCH) // _MILLISECOND


def zone(name: str) -> datetime.tzinfo:
    """The time zone of an IANA name. Raises `ScheduleInvalid`."""
    try:
        return datetime.UTC if name == "UTC" else zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ScheduleInvalid(
            f"{name[:80]!r} is no time zone that is known here; write an IANA name such as Europe/Berlin (a machine"
            " without any needs the package tzdata)",
            pointer="/timezone",
        ) from None


def of_wall(wall: datetime.datetime, tz: datetime.tzinfo) -> datetime.datetime:
    """The instant, in UTC, at which a clock of this zone first shows this time, or jumps over it."""
    first = wall.replace(tzinfo=tz, fold=0).astimezone(datetime.UTC)
    if first.astimezone(tz).replace(tzinfo=None) == wall:
        return first
    # In a gap fold=0 means the offset before it, which leads behind the jump, and fold=1 the one after it.
    before = wall.replace(tzinfo=tz, fold=1).astimezone(datetime.UTC)
    return _change(before, first, tz)


def _change(low: datetime.datetime, high: datetime.datetime, tz: datetime.tzinfo) -> datetime.datetime:
    """The first instant with another offset than at `low`; `high` has another one."""
    offset = low.astimezone(tz).utcoffset()
    while high - low > _SECOND:
        middle = (low + (high - low) / 2).replace(microsecond=0)
        middle = middle if middle > low else low + _SECOND
        if middle.astimezone(tz).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class CronTicks:
    """The ticks of a cron line in a zone."""

    cron: Cron
    zone: datetime.tzinfo

    def after(self, time: datetime.datetime) -> datetime.datetime | None:
        """The first tick later than this instant, in UTC; None when there is none."""
        if time.year >= _LAST_YEAR:
            return None
        return self._as_time_passes(time) if self.cron.every_hour else self._once_each(time)

    def _once_each(self, time: datetime.datetime) -> datetime.datetime | None:
        # Later times of the wall clock never are earlier instants, so the first that fits is the one.
        wall = self.cron.next(self._wall(time))
        while wall is not None:
            tick = of_wall(wall, self.zone)
            if tick > time:
                return tick
            wall = self.cron.next(wall + _SECOND)
        return None

    def _as_time_passes(self, time: datetime.datetime) -> datetime.datetime | None:
        at, earliest = time, time + _MILLISECOND
        while True:
            offset = self._offset(at)
            wall = self.cron.next((earliest + offset).replace(tzinfo=None))
            if wall is None or wall.year >= _LAST_YEAR:
                return None
            tick = wall.replace(tzinfo=datetime.UTC) - offset
            # What was found behind a change of the offset is looked for again from there.
            changed = self._next_change(at, tick)
            if changed is None:
                return tick
            at = earliest = changed

    def _next_change(self, begin: datetime.datetime, end: datetime.datetime) -> datetime.datetime | None:
        """The first instant in (begin, end] with another offset than at `begin`, or None."""
        offset = self._offset(begin)
        while begin < end:
            following = min(begin + _DAY, end)
            if self._offset(following) != offset:
                return _change(begin, following, self.zone)
            begin = following
        return None

    def _wall(self, time: datetime.datetime) -> datetime.datetime:
        return time.astimezone(self.zone).replace(tzinfo=None, fold=0)

    def _offset(self, time: datetime.datetime) -> datetime.timedelta:
        return time.astimezone(self.zone).utcoffset() or datetime.timedelta(0)


@dataclass(frozen=True, slots=True)
class Timing:
    """When a schedule ticks, and how long after that an event is published."""

    schedule_id: UUID
    cron: CronTicks | None
    every_ms: int | None
    from_ms: int
    """The first instant at which there may be a tick; intervals are counted from it."""
    until_ms: int | None
    jitter_ms: int

    @classmethod
    def of(cls, record: ScheduleRecord) -> Timing:
        """The timing of a record. Raises `ScheduleInvalid`."""
        return cls(
            schedule_id=record.schedule_id,
            cron=CronTicks(Cron(record.cron), zone(record.timezone)) if record.cron is not None else None,
            every_ms=record.every_ms,
            from_ms=record.from_ms,
            until_ms=record.until_ms,
            jitter_ms=record.jitter_ms,
        )

    def next(self, after_ms: int) -> int | None:
        """The first tick later than this instant, or None when there is no more."""
        after_ms = max(after_ms, self.from_ms - 1)
        if self.cron is not None:
            found = self.cron.after(instant(after_ms))
            tick = None if found is None else milliseconds(found)
        elif self.every_ms is not None:
            tick = self.from_ms + ((after_ms - self.from_ms) // self.every_ms + 1) * self.every_ms
        else:
            tick = self.from_ms if after_ms < self.from_ms else None
        return None if tick is None or (self.until_ms is not None and tick > self.until_ms) else tick

    def ticks(self, after_ms: int, until_ms: int) -> Iterator[int]:
        """The ticks later than one instant and not later than another."""
        tick = self.next(after_ms)
        while tick is not None and tick <= until_ms:
            yield tick
            tick = self.next(tick)

    def due(self, tick_ms: int) -> int:
        """When a tick's event is published: at the tick, or so much later as follows from schedule and tick alone."""
        if not self.jitter_ms:
            return tick_ms
        seed = hashlib.blake2b(self.schedule_id.bytes + tick_ms.to_bytes(8, "big", signed=True), digest_size=8).digest()
        return tick_ms + int.from_bytes(seed, "big") % (self.jitter_ms + 1)
