"""Ticks that must not overlap: which of them are published is decided by a change of the schedule's progress.

1. The decision is stored: the tick's run, still without the place of its event. Only one of several timers can.
2. What it replaces is cancelled, and its event is stored.
3. That is recorded in the run. Who finds a run without it does step 2 again: the event's id and the cancellations are
   the same.

A run is over when its event was matched and none of the deliveries is open. The dispatcher writes both
(`headrace.bus.eventing.schedules.runs`); what it cannot write any more is looked for here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import msgspec

from headrace.bus import names
from headrace.bus.errors import RecordConflict, StreamMissing
from headrace.bus.eventing.schedules.due import Due
from headrace.bus.eventing.schedules.models import ScheduleProgress, ScheduleRecord, TickRun
from headrace.bus.eventing.schedules.overlaps import decided
from headrace.bus.eventing.schedules.replacing import Replacing
from headrace.bus.nats.connection import Connection
from headrace.bus.store.records import Record
from headrace.bus.store.tables import Tables

logger = logging.getLogger(__name__)

_PAGE = 100

Publish = Callable[[ScheduleProgress, int], Awaitable[int]]
"""Stores the event of a tick, now or before; gives its sequence."""


class Guard:
    """Decides about the ticks of schedules that do not allow overlaps, beside any number of others."""

    def __init__(self, connection: Connection, tables: Tables, replacing: Replacing) -> None:
        self._connection = connection
        self._tables = tables
        self._replacing = replacing

    async def settle(
        self, record: ScheduleRecord, find: Callable[[ScheduleProgress], Awaitable[Due]], publish: Publish
    ) -> tuple[int | None, bool] | None:
        """Do what is due; the next tick, and whether ticks wait for the end of a run. None: the schedule is deleted.

        Raises `BusError`.
        """
        while True:
            progress = await self._tables.schedule_progress.get(record.schedule_id.hex)
            if progress is None:
                return None
            if progress.value.run is not None and not progress.value.run.sequence:
                await self._publish(record, progress, progress.value.run, publish)
                continue
            found = await find(progress.value)
            wanted = bool(found.ticks or progress.value.queued)
            over = wanted and await self._is_over(progress.value.run)
            following = decided(record, progress.value, found, over=over)
            if following == progress.value:
                return found.next_ms, bool(following.queued)
            with contextlib.suppress(RecordConflict):  # a delivery has ended, or somebody else was first: look again
                await self._tables.schedule_progress.update(progress, following)
                _tell(record, progress.value, following)

    async def _publish(
        self, record: ScheduleRecord, progress: Record[ScheduleProgress], run: TickRun, publish: Publish
    ) -> None:
        value = progress.value
        if value.replaced_run is not None:
            await self._replacing.cancel_run(record.schedule_id, value.replaced_run)
        sequence = await publish(value, run.tick_ms)
        following = msgspec.structs.replace(
            value,
            run=msgspec.structs.replace(run, sequence=sequence),
            replaced_run=None,
            fired_ms=run.tick_ms,
            sequence=max(sequence, value.sequence),
        )
        with contextlib.suppress(RecordConflict):  # as above; the event is known by its id
            await self._tables.schedule_progress.update(progress, following)

    async def _is_over(self, run: TickRun | None) -> bool:
        if run is None:
            return True
        if not run.matched and not await self._was_passed(run):
            return False
        return not await self._exist(run.open)

    async def _exist(self, subscriptions: Sequence[UUID]) -> bool:
        """Whether any of these is there: what a deleted one has started is nobody's concern any more."""
        for start in range(0, len(subscriptions), _PAGE):
            keys = [each.hex for each in subscriptions[start : start + _PAGE]]
            if await self._tables.subscriptions.several(keys):
                return True
        return False

    async def _was_passed(self, run: TickRun) -> bool:
        """Whether a dispatcher has dealt with an event without a word (one of an earlier release), or none ever will,
        because the bus has forgotten it."""
        stream = names.event_stream(run.bus)
        try:
            info = await self._connection.api(f"CONSUMER.INFO.{stream}.{names.matcher_consumer(run.bus)}")
        except StreamMissing:
            return False
        if int(info["ack_floor"]["stream_seq"]) >= run.sequence:
            return True
        messages, _ = await self._connection.read_many(stream, {"seq": run.sequence})
        return not messages or messages[0].sequence != run.sequence


def _tell(record: ScheduleRecord, before: ScheduleProgress, after: ScheduleProgress) -> None:
    facts = (
        ("were missed, and are not made up for", "ticks_missed", after.missed - before.missed),
        ("were skipped: what an earlier one started still runs", "ticks_skipped", after.skipped - before.skipped),
    )
    for fact, action, count in facts:
        if count:
            logger.warning(
                "Schedule %s: %d ticks %s.",
                record.schedule_id,
                count,
                fact,
                extra={"action": action, "schedule": record.schedule_id.hex, "count": count},
            )
