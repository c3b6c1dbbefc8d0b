"""Ending what a tick has started, because the next one takes its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.places import compile_places
from headrace.bus.eventing.schedules.models import TickRun
from headrace.bus.eventing.schedules.ticks import tick_id
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.keys import KeyRing
from headrace.bus.names import Address
from headrace.bus.nats.connection import Connection
from headrace.bus.queues.lanes import Lanes
from headrace.bus.store.tables import Tables
from headrace.bus.tasks.cancelling import Cancelling

_REASONS: Final = (
    "the next tick of its schedule took its place before it started",
    "the next tick of its schedule took its place, and its endpoint is lost",
)
_PAGE = 100


class Replacing:
    """Cancels tasks of deliveries, also those that run. What is cancelled twice is cancelled once."""

    def __init__(self, connection: Connection, keys: KeyRing, tables: Tables) -> None:
        self._connection = connection
        self._keys = keys
        self._tables = tables
        self._lanes = Lanes(connection, keys, tables.lanes)

    async def cancel_run(self, schedule_id: UUID, run: TickRun) -> None:
        """Cancel whatever attempt is queued or runs of each delivery that is open. Raises `BusError`."""
        event_id = tick_id(schedule_id, run.tick_ms)
        for start in range(0, len(run.open), _PAGE):
            keys = [each.hex for each in run.open[start : start + _PAGE]]
            found = await self._tables.subscriptions.several(keys)
            for record in (each.value for each in found.values()):
                first = Delivery(record.subscription_id, run.bus, run.sequence, run.source, event_id)
                # Which attempt it is at nobody has written down; there are few, and their ids follow from this.
                await self._cancel(record, [first.numbered(n) for n in range(1, record.retry.max_attempts + 1)])

    async def cancel(self, record: SubscriptionRecord, delivery: Delivery) -> None:
        """Cancel one attempt. Raises `BusError`."""
        await self._cancel(record, [delivery])

    async def _cancel(self, record: SubscriptionRecord, attempts: Sequence[Delivery]) -> None:
        if record.target is not None:
            return  # a request to a sink that is under way ends by itself
        places = compile_places(record.endpoint_id, record.endpoint, record.offline.next_endpoints).all()
        cancelling = Cancelling(self._connection, self._keys, force=True, is_up=self._is_up, reasons=_REASONS)
        for place in (*places, *record.former_endpoints):
            await cancelling.tasks_at(place, {attempt.task_id(place) for attempt in attempts})

    async def _is_up(self, address: Address) -> bool:
        if await self._tables.presence.is_online(address.endpoint):
            return True
        return (await self._lanes.state(address.endpoint, address.pool, address.principal)).requests > 0
