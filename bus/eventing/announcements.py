"""Announcements: the events that a subscription publishes when a delivery has succeeded, or was given up.

Each has an id that follows from the delivery, so that repeating is one event: the server knows it for two minutes, and
whoever announces later looks on the bus first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.bus.errors import (
    BusMissing,
    EventUnfit,
    LoopDetected,
    PayloadTooLarge,
    PublishingForbidden,
    StreamMissing,
)
from headrace.bus.eventing.arrivals import sequence_before
from headrace.bus.eventing.causes import consequence
from headrace.bus.eventing.dead_letters import DeadLetter
from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.events import MOST_EVENT_BYTES, CloudEvent
from headrace.bus.eventing.publishing import Publishing
from headrace.bus.eventing.replays.models import MARK
from headrace.bus.eventing.subscriptions import Announcement, SubscriptionRecord
from headrace.bus.names import event_stream, event_subject
from headrace.bus.nats import pages
from headrace.bus.nats.connection import Connection
from headrace.bus.tasks.bundles import TaskResult
from headrace.bus.tasks.plain_results import plain_result, reference_document

logger = logging.getLogger(__name__)

_SURELY_KNOWN_S: Final = 100.0
"""For so long the server recognises an id for certain: its window is a little longer."""
_PAGE = 200
_MOST_REMEMBERED = 50_000

_Kind = tuple[str, str]


class Announcer:
    """Publishes announcements, in the name of the subscriptions' owners, as far as their rights go."""

    def __init__(self, connection: Connection, publishing: Publishing) -> None:
        self._connection = connection
        self._publishing = publishing
        self._seen: dict[_Kind, _Seen] = {}

    async def success(
        self,
        record: SubscriptionRecord,
        delivery: Delivery,
        event: CloudEvent | None,
        result: TaskResult,
        *,
        place: UUID,
        task_id: UUID,
        stored_at: float,
    ) -> None:
        """Announce a success, if the subscription says so. `place`: the endpoint; `stored_at`: the result
        is not older than that (unix seconds).

        Raises `StreamFull` and `BusUnavailable`; announcing again is one event.
        """
        if record.announce.success is None:
            return
        name = delivery.delivery_id(place)
        data = {"task_id": str(task_id), "attempts": delivery.attempt, **_value(task_id, result)}
        told = announced(record, record.announce.success, name, delivery, event, data)
        await self._announce(record, record.announce.success, told, since=stored_at)

    async def failure(
        self, record: SubscriptionRecord, delivery: Delivery, event: CloudEvent | None, letter: DeadLetter, *, new: bool
    ) -> None:
        """Announce a dead letter, if the subscription says so. `new`: it was stored just now. Raises as `success`."""
        # What announces that it goes round in a circle would go on doing so.
        if record.announce.failure is None or letter.code == LoopDetected.code:
            return
        data = {
            "dead_letter_id": str(letter.dead_letter_id),
            "code": letter.code,
            "reason": letter.reason[:4000],
            "attempts": len(letter.attempts),
            "task_ids": [str(each.task_id) for each in letter.attempts],
        }
        since = time.time() if new else delivery.published_at or record.created_at
        told = announced(record, record.announce.failure, letter.dead_letter_id, delivery, event, data)
        await self._announce(record, record.announce.failure, told, since=since)

    async def _announce(
        self, record: SubscriptionRecord, announcement: Announcement, event: CloudEvent, *, since: float
    ) -> None:
        bus = announcement.bus or record.bus
        try:
            late = time.time() - since > _SURELY_KNOWN_S
            if late and await self._is_there(bus, event, since):
                return
            await self._publishing.publish(event, bus=bus, publisher=record.owner, check=True)
        except (BusMissing, PublishingForbidden, EventUnfit, PayloadTooLarge, StreamMissing) as error:
            logger.warning(
                "What became of a delivery of subscription %s cannot be announced on the bus %s: %s",
                record.subscription_id,
                bus,
                error,
                extra={"action": "announcement_failed", "subscription": str(record.subscription_id)},
            )

    async def _is_there(self, bus: str, event: CloudEvent, since: float) -> bool:
        """Whether the bus has it. What was read before is remembered, so that many of them cost one reading."""
        seen = self._seen.get((bus, event.type))
        if seen is None or seen.since > since or len(seen.ids) > _MOST_REMEMBERED:
            begin = await sequence_before(self._connection, datetime.fromtimestamp(since, UTC), bus=bus)
            seen = self._seen[bus, event.type] = _Seen(since, begin)
        subject = event_subject(bus, event.type)
        stored = pages.messages(self._connection, event_stream(bus), subject, start=seen.position + 1, batch=_PAGE)
        async for page in stored:
            for message in page:
                document = msgspec.json.decode(message.data)
                seen.ids.add((document.get("source"), document.get("id")))
            seen.position = page[-1].sequence
        return (event.source, event.id) in seen.ids


class _Seen:
    """The events of one type on one bus that were stored since a moment, as far as they were read."""

    def __init__(self, since: float, position: int) -> None:
        self.since = since
        self.position = position
        self.ids: set[tuple[str, str]] = set()


def announced(
    record: SubscriptionRecord,
    announcement: Announcement,
    name: UUID,
    delivery: Delivery,
    cause: CloudEvent | None,
    data: Mapping[str, Any],
) -> CloudEvent:
    """The event of an announcement, whose id is this name."""
    document = {
        "specversion": "1.0",
        "id": str(name),
        "source": source_of(record, announcement),
        "type": announcement.type,
        "datacontenttype": "application/json",
        **({"subject": str(cause.attributes["subject"])} if cause and "subject" in cause.attributes else {}),
        **consequence(cause, delivery.event_id, record.subscription_id),
        **({MARK: str(delivery.replay)} if delivery.replay else {}),
        "data": {
            "subscription_id": str(record.subscription_id),
            "subscription_name": record.name,
            "event": {
                "bus": delivery.bus,
                "sequence": delivery.sequence,
                "source": delivery.source,
                "id": delivery.event_id,
                **({"type": cause.type} if cause else {}),
            },
            **data,
        },
    }
    # The subscription was refused if its type or its source were none.
    return CloudEvent.of_valid(document)


def source_of(record: SubscriptionRecord, announcement: Announcement) -> str:
    """The source of the events of an announcement."""
    return announcement.source or f"/headrace/subscriptions/{record.subscription_id}"


def _value(task_id: UUID, result: TaskResult) -> dict[str, Any]:
    """What the function gave: the value, or where it is when it is large."""
    plain = plain_result(result)
    if plain.reference is not None:
        return {"result_reference": reference_document(task_id, plain.reference)}
    if plain.python_object:
        return {"python_object": plain.python_object}
    if len(result.value) > MOST_EVENT_BYTES // 2:
        return {"result_reference": {"href": f"/api/v1/tasks/{task_id}", "size": len(result.value)}}
    return {"result": plain.value}
