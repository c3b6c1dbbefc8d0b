"""The end of subscriptions: their records, and what they leave behind."""

from __future__ import annotations

from headrace.bus.eventing.deliveries import drop_waiting
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.names import sink_consumer
from headrace.bus.nats.connection import Connection
from headrace.bus.store.streams import delete_consumer
from headrace.bus.store.tables import Tables


async def remove_subscription(connection: Connection, tables: Tables, record: SubscriptionRecord) -> None:
    """Remove a subscription, with the deliveries that wait. Raises `BusUnavailable`; removing again mends the rest."""
    # The record goes first: what a dispatcher stores between the two finds no subscription when its time comes.
    await tables.subscriptions.delete(record.subscription_id.hex)
    await clear_after(connection, tables, record)


async def clear_after(connection: Connection, tables: Tables, record: SubscriptionRecord) -> None:
    """Remove what a subscription has left whose record is gone. Raises `BusUnavailable`."""
    if record.start is not None:
        await tables.catch_ups.delete(record.subscription_id.hex)
    await drop_waiting(connection, record.subscription_id)
    if record.target is not None:
        await delete_consumer(connection, "DELIVERIES", sink_consumer(record.subscription_id))
