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
from headrace.bus.eventing.joins import COMPLETE_TYPE, EXPIRED_TYPE
from headrace.bus.eventing.subscriptions import Announcement, SubscriptionRecord
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


async def find_joined(connection: Connection, record: SubscriptionRecord, part: Arrived) -> Announced | None:
    """The event in which this one and others have come together for a subscription, or that tells that they have not.

    None while it waits, and where it is not found. Raises `BusUnavailable`.
    """
    for kind in (COMPLETE_TYPE, EXPIRED_TYPE):
        query = {
            "start_time": datetime.fromtimestamp(part.stored_at, UTC).isoformat(),
            "next_by_subj": event_subject(record.bus, kind),
            "batch": MOST_LOOKED_AT,
            "max_bytes": _MOST_BYTES,
        }
        messages, _ = await connection.read_many(event_stream(record.bus), query)
        for arrived in map(Arrived.of, messages):
            if arrived.event is not None and _holds(arrived.event.document.get("data"), record, part.sequence):
                return Announced(record.bus, arrived)
    return None


def _holds(data: object, record: SubscriptionRecord, sequence: int) -> bool:
    """Whether this is what is told of a join of the subscription, with this part in it."""
    if not isinstance(data, dict) or data.get("subscription_id") != str(record.subscription_id):
        return False
    named = data.get("sequences")
    return isinstance(named, dict) and any(sequence in each for each in named.values() if isinstance(each, list))
