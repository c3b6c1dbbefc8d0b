"""How far the dispatchers are: whether a consumer has seen to everything up to a place, or a moment."""

from __future__ import annotations

from datetime import UTC, datetime

from headrace.bus.eventing.arrivals import sequence_before
from headrace.bus.names import event_stream, matcher_consumer
from headrace.bus.nats.connection import Connection


async def has_passed(connection: Connection, stream: str, consumer: str, sequence: int) -> bool:
    """Whether a consumer is done with everything up to this sequence.

    Raises `StreamMissing` where one of the two is not there, and `BusUnavailable`.
    """
    info = await connection.api(f"CONSUMER.INFO.{stream}.{consumer}")
    nothing_left = not info["num_pending"] and not info["num_ack_pending"]
    return nothing_left or int(info["ack_floor"]["stream_seq"]) >= sequence


async def has_matched(connection: Connection, bus: str, at: float) -> bool:
    """Whether all events of a bus were matched that were stored before this moment (unix seconds). Raises as above."""
    last = await sequence_before(connection, datetime.fromtimestamp(at, UTC), bus=bus)
    return await has_passed(connection, event_stream(bus), matcher_consumer(bus), last)
