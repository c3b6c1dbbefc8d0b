"""The event that was published because of how a delivery ended: found by the id that follows from the delivery.

It was stored after the result, or the dead letter, under the subject of its type: so that is read from there on, for
some hundred events at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import msgspec

from headrace.bus.errors import StreamMissing
from headrace.bus.eventing.announcements import source_of
from headrace.bus.eventing.arrivals import Arrived
from headrace.bus.eventing.events import MESSAGE_ID_HEADER, message_id_of
from headrace.bus.eventing.subscriptions import Announcement
from headrace.bus.eventing.traces.stories import Story
from headrace.bus.names import event_stream, event_subject
from headrace.bus.nats.connection import Connection

MOST_LOOKED_AT: Final = 500
_MOST_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Announced:
    """An event that came of a delivery, and its bus."""

    bus: str
    arrived: Arrived


async def find_announced(connection: Connection, story: Story) -> Announced | None:
    """What was announced of the end of a delivery, as its subscription announces now; None when nothing is found.

    Raises `BusUnavailable`.
    """
    record = story.record
    ended = _end_of(story)
    if ended is None:
        return None
    announcement, name, since = ended
    bus = announcement.bus or record.bus
    wanted = message_id_of(source_of(record, announcement), str(name), bus)
    query = {
        "start_time": datetime.fromtimestamp(since, UTC).isoformat(),
        "next_by_subj": event_subject(bus, announcement.type),
        "batch": MOST_LOOKED_AT,
        "max_bytes": _MOST_BYTES,
    }
    try:
        messages, _ = await connection.read_many(event_stream(bus), query)
    except StreamMissing:
        return None
    for message in messages:
        if message.headers.get(MESSAGE_ID_HEADER) == wanted:
            return Announced(bus, Arrived.of(message))
    return None


def _end_of(story: Story) -> tuple[Announcement, UUID, float] | None:
    """How its end is announced, under which id, and since when (unix seconds, the server's clock)."""
    announce, last, letter = story.record.announce, story.last, story.letter
    if story.state == "succeeded" and announce.success is not None and last is not None and last.result_stored_at:
        delivery = msgspec.structs.replace(story.delivery, redriven=story.redriven)
        return announce.success, delivery.delivery_id(last.endpoint_id), last.result_stored_at
    if story.state == "dead" and announce.failure is not None and letter is not None:
        return announce.failure, letter.dead_letter_id, story.letter_stored_at
    return None
