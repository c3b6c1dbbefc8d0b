"""The timer: publishes the ticks of all schedules, beside any number of others that do the same.

Each of them looks at every schedule when its next tick is due:

    1. what the record of its progress says was done is not done again;
    2. the events of the due ticks are stored, under ids that follow from schedule and tick: the server knows a repeated
       one for two minutes, and what may be older is looked for on the bus first;
    3. the progress is recorded, which only one of several can.

One that dies between two steps leaves nothing that the next one would do twice, and nothing that it would leave out.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from headrace.bus import names
from headrace.bus.errors import (
    BusError,
    BusMissing,
    BusUnavailable,
    DecodeError,
    EventUnfit,
    PublishingForbidden,
    RecordConflict,
    ScheduleInvalid,
)
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.publishing import Publishing
from headrace.bus.eventing.schedules.due import Due, due
from headrace.bus.eventing.schedules.guarding import Guard
from headrace.bus.eventing.schedules.models import ScheduleProgress, ScheduleRecord
from headrace.bus.eventing.schedules.replacing import Replacing
from headrace.bus.eventing.schedules.ticks import tick_event
from headrace.bus.eventing.schedules.timing import Timing
from headrace.bus.keys import KeyRing
from headrace.bus.nats.connection import Connection
from headrace.bus.store.records import Record
from headrace.bus.store.tables import Tables
from headrace.schemas import SchemaViolation

logger = logging.getLogger(__name__)

_SURELY_KNOWN_MS = 100_000
"""The server knows the id of a message for 120 s; clocks may be some seconds apart."""
_LONGEST_WAIT_MS = 5_000
"""A machine that was asleep, or whose clock was set, is noticed after this."""
_PAUSE_MS = 1_000
_REFUSED_MS = 60_000
_PAGE = 200
_AT_A_TIME = 16


class Clock(Protocol):
    """What time it is, and waiting for it."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        ...

    async def wait(self, until_ms: int, woken: asyncio.Event) -> None:
        """Return at this time, or when the event is set. It may return earlier."""
        ...


class WallClock:
    """The time of this machine."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    async def wait(self, until_ms: int, woken: asyncio.Event) -> None:
        """Return at this time, or when the event is set."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0, until_ms - self.now_ms()) / 1000):
                await woken.wait()


@dataclass(slots=True)
class _Live:
    """A schedule in memory. `look_ms` is when it is looked at next."""

    key: str
    record: ScheduleRecord
    timing: Timing
    look_ms: int | None = None


class Timer:
    """Publishes ticks. `run` until cancelled."""

    def __init__(self, connection: Connection, keys: KeyRing, tables: Tables, *, clock: Clock | None = None) -> None:
        self._connection = connection
        self._tables = tables
        self._publishing = Publishing(connection, tables.buses, tables.users)
        self._clock = clock or WallClock()
        self._guard = Guard(connection, tables, Replacing(connection, keys, tables))
        self._live: dict[str, _Live] = {}
        self._looks: list[tuple[int, str]] = []
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Publish ticks until cancelled; what cannot be done now is done later. Raises `BusUnavailable`."""
        await self._connection.wait_connected(None)
        async with contextlib.AsyncExitStack() as stack:
            schedules = await self._tables.schedules.watch(self._changed)
            stack.push_async_callback(schedules.stop)
            progress = await self._tables.schedule_progress.watch(self._moved)
            stack.push_async_callback(progress.stop)
            logger.info("The timer publishes ticks.", extra={"action": "timer_ready"})
            while True:
                await self._round()

    async def _round(self) -> None:
        now_ms = self._clock.now_ms()
        looks: list[_Live] = []
        while self._looks and self._looks[0][0] <= now_ms and len(looks) < _AT_A_TIME:
            at_ms, key = heapq.heappop(self._looks)
            live = self._live.get(key)
            if live is not None and live.look_ms == at_ms:
                looks.append(live)
        if looks:
            await asyncio.gather(*(self._look(live) for live in looks))
            return
        following = self._looks[0][0] if self._looks else now_ms + _LONGEST_WAIT_MS
        await self._clock.wait(min(following, now_ms + _LONGEST_WAIT_MS), self._woken)
        self._woken.clear()

    async def _look(self, live: _Live) -> None:
        try:
            next_ms = await self._fire(live)
        except BusUnavailable as error:
            logger.info("Ticks wait for the bus: %s", error, extra={"action": "ticks_wait"})
            next_ms = self._clock.now_ms() + _PAUSE_MS
        except (BusMissing, PublishingForbidden, EventUnfit) as error:
            logger.warning(
                "Schedule %s cannot publish: %s. Its ticks are missed until that changes.",
                live.record.schedule_id,
                error,
                extra={"action": "ticks_refused", "schedule": str(live.record.schedule_id)},
            )
            next_ms = self._clock.now_ms() + _REFUSED_MS
        except BusError as error:
            logger.warning(
                "The ticks of schedule %s could not be published (%s); trying again.",
                live.record.schedule_id,
                error,
                extra={"action": "ticks_failed", "schedule": str(live.record.schedule_id)},
            )
            next_ms = self._clock.now_ms() + _PAUSE_MS
        except SchemaViolation:
            # It was an event when the schedule was made; another release has other rules.
            logger.exception("The event of a schedule is none here; it does not tick until it is made anew.")
            next_ms = None
        if self._live.get(live.key) is live:
            self._look_at(live, next_ms)

    async def _fire(self, live: _Live) -> int | None:
        """Do what is due; gives when to look again."""
        if live.record.overlap != "allow":
            return await self._fire_guarded(live)
        progress = await self._tables.schedule_progress.get(live.key)
        if progress is None:
            return None  # it is being deleted
        found = await self._due(live, progress.value)
        if found.upto_ms > max(live.record.after_ms, progress.value.last_ms):
            sequence = await self._publish(live, progress.value, found.ticks)
            await self._record(progress, found, sequence)
        return None if found.next_ms is None else live.timing.due(found.next_ms)

    async def _fire_guarded(self, live: _Live) -> int | None:
        settled = await self._guard.settle(
            live.record,
            lambda progress: self._due(live, progress),
            lambda progress, tick: self._publish(live, progress, (tick,)),
        )
        if settled is None:
            return None  # it is being deleted
        next_ms, waits = settled
        looks = [] if next_ms is None else [live.timing.due(next_ms)]
        if waits:
            # As a rule the end of the run says so; that the last subscription is deleted, for one, nobody tells.
            looks.append(self._clock.now_ms() + _LONGEST_WAIT_MS)
        return min(looks, default=None)

    async def _due(self, live: _Live, progress: ScheduleProgress) -> Due:
        record, now_ms = live.record, self._clock.now_ms()
        after_ms = max(record.after_ms, progress.last_ms)
        if now_ms - after_ms > record.grace_ms:
            # There may be very many, and others must not wait for the counting.
            return await asyncio.to_thread(due, record, live.timing, after_ms=after_ms, now_ms=now_ms)
        return due(record, live.timing, after_ms=after_ms, now_ms=now_ms)

    async def _publish(self, live: _Live, progress: ScheduleProgress, ticks: Sequence[int]) -> int:
        """Store the events of these ticks; gives the sequence of the last one."""
        events = [tick_event(live.record, live.timing, tick) for tick in ticks]
        if not events:
            return progress.sequence
        if self._clock.now_ms() - live.timing.due(ticks[0]) > _SURELY_KNOWN_MS:
            known = await self._stored(live.record, events[0], progress.sequence)
            events = [event for event in events if event.id not in known]
            if not events:
                return max(known.values())
        published = await self._publishing.publish_together(
            events, bus=live.record.bus, publisher=live.record.owner, check=True
        )
        for tick in ticks:
            logger.debug("Tick.", extra={"action": "tick", "schedule": live.key, "tick_ms": tick})
        return max(each.sequence for each in published)

    async def _stored(self, record: ScheduleRecord, event: CloudEvent, after: int) -> dict[str, int]:
        """The ids and sequences of ticks that somebody stored, and then died before it could record that."""
        known: dict[str, int] = {}
        subject = names.event_subject(record.bus, event.type)
        start = after + 1
        while True:
            query = {"seq": start, "next_by_subj": subject, "batch": _PAGE}
            messages, _ = await self._connection.read_many(names.event_stream(record.bus), query)
            for message in messages:
                with contextlib.suppress(DecodeError):
                    found = CloudEvent.of_stored(message.data)
                    if found.source == event.source:
                        known[found.id] = message.sequence
            if not messages:
                return known
            start = messages[-1].sequence + 1

    async def _record(self, progress: Record[ScheduleProgress], found: Due, sequence: int) -> None:
        value = progress.value
        following = msgspec.structs.replace(
            value,
            last_ms=found.upto_ms,
            fired_ms=found.ticks[-1] if found.ticks else value.fired_ms,
            sequence=sequence,
            missed=value.missed + found.missed,
        )
        with contextlib.suppress(RecordConflict):  # somebody else was first, or the schedule is deleted
            await self._tables.schedule_progress.update(progress, following)
            if found.missed:
                logger.warning(
                    "Schedule %s: %d ticks were missed, and are not made up for.",
                    progress.key,
                    found.missed,
                    extra={"action": "ticks_missed", "schedule": progress.key, "count": found.missed},
                )

    def _changed(self, key: str, record: Record[ScheduleRecord] | None) -> None:
        self._live.pop(key, None)
        if record is not None and not record.value.paused:
            try:
                live = _Live(key, record.value, Timing.of(record.value))
            except ScheduleInvalid as error:
                logger.error(
                    "Schedule %s cannot be used here, so it does not tick: %s",
                    key,
                    error,
                    extra={"action": "schedule_unusable", "schedule": key},
                )
                return
            self._live[key] = live
            # At once: only its progress says what its next tick is.
            self._look_at(live, self._clock.now_ms())
        self._woken.set()

    def _moved(self, key: str, progress: Record[ScheduleProgress] | None) -> None:
        """Look at a schedule whose ticks wait, once what they wait for may be over."""
        live = self._live.get(key)
        if live is None or progress is None or not progress.value.queued:
            return
        run = progress.value.run
        if run is None or (run.matched and not run.open):
            self._look_at(live, self._clock.now_ms())
            self._woken.set()

    def _look_at(self, live: _Live, at_ms: int | None) -> None:
        live.look_ms = at_ms
        if at_ms is not None:
            heapq.heappush(self._looks, (at_ms, live.key))
