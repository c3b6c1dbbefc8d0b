"""Buses from their making to their end. Each step may be repeated, and the next one finds what a crash left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

from headrace.bus.errors import BusLimit, RecordConflict, StreamMissing
from headrace.bus.eventing.buses import MOST_BUSES, MOST_BUSES_OF_ONE, BusRecord
from headrace.bus.eventing.schedules.keeping import remove_schedule
from headrace.bus.eventing.subscription_keeping import remove_subscription
from headrace.bus.eventing.waits import end_waits_on
from headrace.bus.names import event_stream
from headrace.bus.nats.connection import Connection
from headrace.bus.store.streams import ensure_stream
from headrace.bus.store.tables import Tables

logger = logging.getLogger(__name__)


async def make_bus(connection: Connection, tables: Tables, record: BusRecord, *, replicas: int) -> BusRecord:
    """Make a bus. One of its owner that was removed comes again, empty.

    Raises `RecordConflict` when there is one of this name, or was one of somebody else's, `BusLimit`, `StreamFull` when
    the NATS server has no room to promise, and `BusUnavailable`.
    """
    known = [each.value for each in await tables.buses.list() if each.value.is_there]
    if len(known) >= MOST_BUSES:
        raise BusLimit(f"there are {len(known)} buses already; an installation has {MOST_BUSES} at most")
    if sum(each.owner == record.owner for each in known) >= MOST_BUSES_OF_ONE:
        raise BusLimit(f"{record.owner} has {MOST_BUSES_OF_ONE} buses already, and may have no more")
    before = await tables.buses.get(record.name)
    if before is None:
        await tables.buses.create(record.name, record)
    elif before.value.is_there or before.value.owner != record.owner:
        raise RecordConflict(f"there is, or was, a bus {record.name!r}")
    else:
        # Whatever was left of it must be gone first: its events are not those of the new one.
        await remove_bus(connection, tables, record.name)
        gone = await tables.buses.need(record.name)
        record = msgspec.structs.replace(record, first_sequence=gone.value.first_sequence)
        await tables.buses.update(gone, record)
    await ensure_stream(connection, record.stream(), replicas=replicas)
    return record


async def change_bus(
    connection: Connection, tables: Tables, name: str, change: Callable[[BusRecord], BusRecord], *, replicas: int
) -> BusRecord:
    """Change a bus; what it holds beyond a smaller retention goes at once.

    Raises `RecordMissing`, what `change` raises, `StreamFull` and `BusUnavailable`.
    """
    changed = await tables.buses.change(name, change)
    if changed.is_there:
        await ensure_stream(connection, changed.stream(), replicas=replicas)
    return changed


async def remove_bus(connection: Connection, tables: Tables, name: str) -> None:
    """Remove a bus with its events, the subscriptions to it and what waits for them, and the schedules, webhooks and
    feeds that publish to it; actions that wait for its events fail. Raises `RecordMissing` and `BusUnavailable`."""

    def removed(record: BusRecord) -> BusRecord:
        return msgspec.structs.replace(record, removed_at=record.removed_at or time.time(), schemas={})

    # First of all nobody publishes any more. A crash behind this is mended by `mend_buses`.
    await tables.buses.change(name, removed)
    for subscription in await tables.subscriptions.list():
        if subscription.value.bus == name:
            await remove_subscription(connection, tables, subscription.value)
    for schedule in await tables.schedules.list():
        if schedule.value.bus == name:
            await remove_schedule(tables, schedule.value.schedule_id)
    for hook in await tables.hooks.list():
        if hook.value.bus == name:
            await tables.hooks.delete(hook.key)
    for feed in await tables.feeds.list():
        if feed.value.bus == name:
            await tables.feeds.delete(feed.key)
    await end_waits_on(tables.actions, name)
    await _remove_stream(connection, tables, name)


async def mend_buses(connection: Connection, tables: Tables, *, replicas: int) -> None:
    """Make the streams that are missing, and end removals that were cut short. Raises `BusUnavailable`."""
    for record in await tables.buses.list():
        if record.value.is_there:
            await ensure_stream(connection, record.value.stream(), replicas=replicas)
        elif await _has_stream(connection, record.key):  # which goes last of all
            await remove_bus(connection, tables, record.key)


async def _has_stream(connection: Connection, name: str) -> bool:
    try:
        await connection.api(f"STREAM.INFO.{event_stream(name)}")
    except StreamMissing:
        return False
    return True


async def _remove_stream(connection: Connection, tables: Tables, name: str) -> None:
    stream = event_stream(name)
    try:
        found = await connection.api(f"STREAM.INFO.{stream}")
        # Sealed, so that its last sequence is the last: a bus of the name that comes later begins behind it, and what
        # refers to an event of this one never meets another.
        if not found["config"].get("sealed"):
            found = await connection.api(f"STREAM.UPDATE.{stream}", {**found["config"], "sealed": True})
            found = await connection.api(f"STREAM.INFO.{stream}")
        following = int(found["state"]["last_seq"]) + 1
        await tables.buses.change(name, lambda record: msgspec.structs.replace(record, first_sequence=following))
        await connection.api(f"STREAM.DELETE.{stream}")
    except StreamMissing:
        return
    logger.info("Removed the bus %s.", name, extra={"action": "bus_removed", "bus": name})
