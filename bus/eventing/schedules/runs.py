"""The runs of ticks, as the dispatcher sees them: which deliveries follow from a tick, and when they have ended.

A schedule whose ticks must not overlap has its run in the record of its progress. The dispatcher writes there which
subscriptions get the tick's event before it starts any delivery, and of each of them that it has ended once that is
stored elsewhere (the result, or the dead letter). Both can be repeated. For other schedules, and other events, nothing
is written.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec

from headrace.bus.errors import RecordConflict
from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.schedules.models import ScheduleProgress, TickRun
from headrace.bus.eventing.schedules.replacing import Replacing
from headrace.bus.eventing.schedules.timing import milliseconds
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.store.records import Record, Records

_UUID_CHARACTERS: Final = 36


def tick_of(event_id: str) -> tuple[UUID, int] | None:
    """The schedule and the tick (unix milliseconds) that the id of an event names; None for any other event."""
    schedule, at, time = event_id.partition("@")
    if not at or len(schedule) != _UUID_CHARACTERS or not time.endswith("Z"):
        return None
    try:
        return UUID(schedule), milliseconds(datetime.datetime.fromisoformat(time))
    except (ValueError, TypeError, OverflowError):
        return None


class TickRuns:
    """The runs of the ticks of all schedules. Any number of these may work side by side."""

    def __init__(self, progress: Records[ScheduleProgress], replacing: Replacing) -> None:
        self._progress = progress
        self._replacing = replacing
        # Many deliveries of one tick may end at once: those of one process take turns, others meet at the record.
        self._turns: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    async def begin(self, bus: str, event: CloudEvent, subscriptions: Sequence[UUID]) -> bool:
        """Note who gets an event; False when it is a tick that was replaced since, so that nobody is to get it.

        Raises `BusUnavailable`.
        """
        named = tick_of(event.id)
        if named is None:
            return True

        def matched(run: TickRun) -> TickRun:
            new = tuple(each for each in subscriptions if each not in set(run.started))
            return run if run.matched and not new else _with(run, matched=True, started=(*run.started, *new))

        progress = await self._change(*named, bus, event.source, matched)
        return progress is None or named[1] > progress.replaced_ms

    async def goes_on(self, delivery: Delivery) -> bool:
        """Whether there may be another attempt: not for what follows from a tick that was replaced.

        Raises `BusUnavailable`.
        """
        named = tick_of(delivery.event_id)
        if named is None or delivery.redriven or delivery.replay:
            return True
        found = await self._progress.get(named[0].hex)
        return found is None or named[1] > found.value.replaced_ms

    async def cut_short(self, record: SubscriptionRecord, delivery: Delivery) -> bool:
        """Cancel this attempt if it follows from a tick that was replaced; whether it does.

        To be asked before and after an attempt is stored: then whoever replaces the tick either finds the attempt, or
        is found here. Raises `BusError`.
        """
        if await self.goes_on(delivery):
            return False
        await self._replacing.cancel(record, delivery)
        return True

    async def end(self, delivery: Delivery) -> None:
        """Note that a delivery has ended for good. Raises `BusUnavailable`."""
        named = tick_of(delivery.event_id)
        if named is None or delivery.redriven or delivery.replay:
            return

        def ended(run: TickRun) -> TickRun:
            if delivery.subscription in run.ended or delivery.subscription not in run.started:
                return run
            return _with(run, ended=(*run.ended, delivery.subscription))

        await self._change(*named, delivery.bus, delivery.source, ended)

    async def _change(
        self, schedule: UUID, tick_ms: int, bus: str, source: str, change: Callable[[TickRun], TickRun]
    ) -> ScheduleProgress | None:
        """Change the run of a tick, if it is the one that goes on; the progress, or None where there is no schedule."""
        async with self._turns.setdefault(schedule, asyncio.Lock()):
            while True:
                found = await self._progress.get(schedule.hex)
                run = None if found is None else found.value.run
                if found is None or run is None or (run.tick_ms, run.bus, run.source) != (tick_ms, bus, source):
                    return None if found is None else found.value
                following = change(run)
                if following is run:
                    return found.value
                if (stored := await self._store(found, following)) is not None:
                    return stored

    async def _store(self, found: Record[ScheduleProgress], run: TickRun) -> ScheduleProgress | None:
        value = msgspec.structs.replace(found.value, run=run)
        try:
            return (await self._progress.update(found, value)).value
        except RecordConflict:
            return None


def _with(run: TickRun, **changes: object) -> TickRun:
    return msgspec.structs.replace(run, **changes)
