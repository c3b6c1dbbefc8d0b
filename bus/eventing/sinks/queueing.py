"""Attempts that wait for being sent to a sink."""

from __future__ import annotations

from headrace.bus import names
from headrace.bus.eventing.deliveries import Delivery, Waiting
from headrace.bus.eventing.events import MESSAGE_ID_HEADER, CloudEvent
from headrace.bus.names import SINKS
from headrace.bus.nats.connection import Connection


async def queue(connection: Connection, delivery: Delivery, event: CloudEvent) -> None:
    """Store an attempt for whoever sends to its sink; again, within two minutes, has no effect.

    Raises `StreamFull`, `PayloadTooLarge` and `BusUnavailable`.
    """
    bundle = delivery.bundle_id(SINKS)
    subject = names.delivery_sink_subject(delivery.subscription, bundle)
    headers = {MESSAGE_ID_HEADER: f"sink {bundle.hex}"}
    await connection.store(subject, Waiting(delivery, event.encode()).encode(), headers=headers)
