"""A schedule of a test's own on a real bus, under a clock that the test sets."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import uuid
from collections.abc import AsyncIterator
from typing import Any

from service import RunningService
from waiting import eventually_answered

from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.schedules.keeping import make_schedule, remove_schedule
from headrace.bus.eventing.schedules.models import ScheduleRecord
from headrace.bus.eventing.schedules.requests import record_of
from headrace.bus.eventing.schedules.timer import Timer
from headrace.bus.eventing.schedules.timing import milliseconds
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.names import event_subject
from headrace.bus.nats.connection import Connection
from headrace.bus.store.tables import Tables

# Far ahead of the service's own timer, which therefore never touches what these clocks drive.
BEGIN = milliseconds(datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC))


class SetClock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.time_ms = BEGIN
        self._moved = asyncio.Condition()

    def now_ms(self) -> int:
        return self.time_ms

    async def wait(self, until_ms: int, woken: asyncio.Event) -> None:
        moved = asyncio.create_task(self._reaches(until_ms), name="the clock moves")
        wake = asyncio.create_task(woken.wait(), name="woken")
        try:
            await asyncio.wait((moved, wake), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (moved, wake):
                each.cancel()
            await asyncio.wait((moved, wake))

    async def advance(self, seconds: float) -> None:
        async with self._moved:
            self.time_ms += round(seconds * 1000)
            self._moved.notify_all()

    async def _reaches(self, until_ms: int) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: self.time_ms >= until_ms)


class Desk:
    """One schedule of its own type, timers that can be started and killed, and what is on the bus."""

    def __init__(self, service: RunningService, connection: Connection) -> None:
        self.service, self.connection = service, connection
        self.tables, self.clock = Tables.on(connection), SetClock()
        self.keys = ServiceKeys.load(service.keys_dir).key_ring()
        self.kind = f"org.example.{uuid.uuid4().hex}"
        self.timers: list[asyncio.Task[None]] = []

    async def schedule(self, owner: str = "urn:headrace:user:ada", **body: Any) -> ScheduleRecord:
        body = {"every_s": 60, "event": {"type": self.kind}, **body}
        record = record_of(body, schedule_id=uuid.uuid4(), owner=owner, now_ms=BEGIN)
        await make_schedule(self.connection, self.tables, record)
        return record

    def start(self, connection: Connection | None = None) -> asyncio.Task[None]:
        connection = connection or self.connection
        timer = Timer(connection, self.keys, Tables.on(connection), clock=self.clock)
        self.timers.append(asyncio.create_task(timer.run(), name="timer"))
        return self.timers[-1]

    async def kill(self, timer: asyncio.Task[None]) -> None:
        timer.cancel()
        await asyncio.wait((timer,))

    async def events(self) -> list[CloudEvent]:
        query = {"seq": 1, "next_by_subj": event_subject("default", self.kind), "batch": 500}
        messages, _ = await self.connection.read_many("EVENTS", query)
        return [CloudEvent.of_stored(message.data) for message in messages]

    async def minutes(self) -> list[float]:
        """The minutes of the ticks that were published."""
        times = [datetime.datetime.fromisoformat(str(e.attributes["scheduledtime"])) for e in await self.events()]
        return [(milliseconds(time) - BEGIN) / 60_000 for time in times]

    async def settled(self, record: ScheduleRecord, minute: float) -> list[float]:
        """The same, once all is settled up to a minute."""

        async def is_settled() -> bool:
            found = await self.tables.schedule_progress.need(record.schedule_id.hex)
            run = found.value.run
            return found.value.last_ms >= BEGIN + minute * 60_000 and (run is None or run.sequence > 0)

        await eventually_answered(is_settled, message=f"the ticks up to minute {minute:g} are settled")
        return await self.minutes()


@contextlib.asynccontextmanager
async def opened(service: RunningService) -> AsyncIterator[Desk]:
    keys = ServiceKeys.load(service.keys_dir)
    async with Connection([service.nats.url], keys.core, name="test") as connection:
        desk = Desk(service, connection)
        try:
            yield desk
        finally:
            for timer in desk.timers:
                await desk.kill(timer)
            for record in await desk.tables.schedules.list():
                await remove_schedule(desk.tables, record.value.schedule_id)
