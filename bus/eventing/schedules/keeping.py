"""The life of a schedule's records: made, at rest, resumed, removed."""

from __future__ import annotations

from uuid import UUID

import msgspec

from headrace.bus.eventing.schedules.models import ScheduleProgress, ScheduleRecord
from headrace.bus.eventing.subscriptions import last_sequence
from headrace.bus.nats.connection import Connection
from headrace.bus.store.tables import Tables


async def make_schedule(connection: Connection, tables: Tables, record: ScheduleRecord) -> None:
    """Store a new schedule. Raises `BusUnavailable`."""
    progress = ScheduleProgress(last_ms=record.after_ms, sequence=await last_sequence(connection, bus=record.bus))
    # First: a schedule without progress is one that is being removed, and does not tick.
    await tables.schedule_progress.create(record.schedule_id.hex, progress)
    await tables.schedules.create(record.schedule_id.hex, record)


async def set_paused(tables: Tables, schedule_id: UUID, *, paused: bool, now_ms: int) -> ScheduleRecord:
    """Let a schedule rest, or go on from now: ticks in between, and those that were queued, are none, and what runs
    then is nothing to wait for. Raises `RecordMissing`."""

    def changed(record: ScheduleRecord) -> ScheduleRecord:
        if record.paused == paused:
            return record
        after_ms = record.after_ms if paused else max(record.after_ms, now_ms)
        return msgspec.structs.replace(record, paused=paused, after_ms=after_ms)

    if not paused and (await tables.schedules.need(schedule_id.hex)).value.paused:
        await tables.schedule_progress.change(schedule_id.hex, _afresh)
    return await tables.schedules.change(schedule_id.hex, changed)


async def remove_schedule(tables: Tables, schedule_id: UUID) -> None:
    """Remove a schedule; nothing happens when there is none. Raises `BusUnavailable`."""
    await tables.schedules.delete(schedule_id.hex)
    await tables.schedule_progress.delete(schedule_id.hex)


def _afresh(progress: ScheduleProgress) -> ScheduleProgress:
    return msgspec.structs.replace(progress, run=None, replaced_run=None, queued=())
