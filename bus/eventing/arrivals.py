"""Events as they lie on their bus, read in their order, without a consumer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from headrace.bus.errors import DecodeError, StreamMissing
from headrace.bus.eventing.events import PUBLISHER_HEADER, CloudEvent
from headrace.bus.eventing.subscriptions import last_sequence
from headrace.bus.names import DEFAULT_BUS, bus_events, event_stream, text
from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.connection import Connection

PAGE: Final = 500
_PAGE_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Arrived:
    """An event as it lies on its bus; `event` is None when it cannot be read."""

    sequence: int
    stored_at: float
    event: CloudEvent | None
    publisher: str = ""
    """Who published it; empty where that was not noted."""

    @classmethod
    def of(cls, message: StoredMessage) -> Arrived:
        """Read a message of EVENTS."""
        try:
            event = CloudEvent.of_stored(message.data)
        except DecodeError:
            event = None
        noted = message.headers.get(PUBLISHER_HEADER, "")
        return cls(message.sequence, message.stored_at, event, text(noted) if noted else "")


async def arrived_after(connection: Connection, bus: str, position: int) -> tuple[list[Arrived], bool]:
    """The next events of a bus after this sequence, in order, and whether there are more. Raises `BusUnavailable`."""
    query = {"seq": position + 1, "next_by_subj": bus_events(bus), "batch": PAGE, "max_bytes": _PAGE_BYTES}
    try:
        messages, pending = await connection.read_many(event_stream(bus), query)
    except StreamMissing:
        if bus == DEFAULT_BUS:
            raise
        return [], False  # it was deleted, with all that it held
    return [Arrived.of(message) for message in messages], pending > 0


async def sequence_before(connection: Connection, moment: datetime, *, bus: str) -> int:
    """The sequence after which all events of a bus were stored since this moment. Raises `BusUnavailable`."""
    query = {"start_time": moment.isoformat(), "next_by_subj": bus_events(bus), "batch": 1}
    messages, _ = await connection.read_many(event_stream(bus), query)
    return messages[0].sequence - 1 if messages else await last_sequence(connection, bus=bus)
