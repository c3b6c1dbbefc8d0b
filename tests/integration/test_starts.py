"""Subscriptions that start in the past, when dispatchers come and go."""

from __future__ import annotations

import asyncio
import uuid

from service import RunningService

from headrace.bus.eventing.leases import Leases
from headrace.bus.eventing.lifetimes import StartPosition
from headrace.bus.eventing.roster import Roster
from headrace.bus.eventing.starts import CatchUps
from headrace.bus.eventing.subscriptions import CompiledSubscription, SubscriptionRecord
from headrace.bus.nats.connection import Connection
from headrace.bus.store.tables import Tables

RECORD = SubscriptionRecord(
    subscription_id=uuid.uuid4(),
    name="past",
    owner="urn:headrace:user:admin",
    filter={"exact": {"type": "nobody.publishes.this"}},
    function_id=uuid.uuid4(),
    endpoint_id=uuid.uuid4(),
    created_at=0.0,
    bus="elsewhere",  # which no dispatcher of the service serves
    after_sequence=100,
    start=StartPosition(after=10, asked={"sequence": 11}),
)


def test_one_dispatcher_at_a_time_catches_up_and_another_goes_on_where_it_died(service: RunningService) -> None:
    offered: dict[str, list[int]] = {"first": [], "second": []}
    key = RECORD.subscription_id.hex

    async def work(connection: Connection) -> None:
        tables, half, whole = Tables.on(connection), asyncio.Event(), asyncio.Event()
        await tables.subscriptions.create(key, RECORD)
        roster = Roster(tables.subscriptions, {"elsewhere": 100})
        await roster.start()

        def catching_up(name: str) -> asyncio.Task[None]:
            async def offer(_subscription: CompiledSubscription, sequences: range) -> range:
                offered[name] += sequences[:5]
                if name == "first" and sequences.start > 50:
                    half.set()
                    await asyncio.Event().wait()  # it is stopped within a page
                if not sequences[5:]:
                    whole.set()
                return sequences[5:]

            async def run() -> None:
                leases = Leases(tables.leases, holder=name)
                async with asyncio.TaskGroup() as group:
                    group.create_task(leases.run())
                    group.create_task(CatchUps(roster, leases, tables.catch_ups, offer).run())

            return asyncio.ensure_future(run())

        tasks = [catching_up("first")]
        await half.wait()
        tasks.append(catching_up("second"))
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        await whole.wait()
        tasks[1].cancel()
        await asyncio.wait(tasks)
        await roster.stop()
        await tables.subscriptions.delete(key)

    service.bus(work)
    assert offered["first"] == list(range(11, 56))
    assert offered["second"] == list(range(51, 101))
