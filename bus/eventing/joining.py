"""Joins as dispatchers keep them: parts in records, sets that are told by events, and windows that end.

No dispatcher holds anything in memory, and none is the one that does it: a record under a subscription and a key is
changed by compare-and-set. What a change has closed is in the record until an event has told of it; whoever comes
along tells it, and telling it twice is one event. The end of a window is a message that the server delivers then.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from headrace.bus import names
from headrace.bus.errors import (
    BusMissing,
    EventUnfit,
    PayloadTooLarge,
    PublishingForbidden,
    RecordConflict,
    StreamMissing,
)
from headrace.bus.eventing.causes import CHAIN, CORRELATION, chain_of
from headrace.bus.eventing.deliveries import JOIN, Delivery, Waiting, wait_until
from headrace.bus.eventing.events import MOST_EVENT_BYTES, CloudEvent, message_id
from headrace.bus.eventing.joins import COMPLETE_TYPE, EXPIRED_TYPE, ClosedSet, CompiledJoin, JoinRecord, Part
from headrace.bus.eventing.progress import has_matched
from headrace.bus.eventing.publishing import Publishing
from headrace.bus.eventing.starts import CatchUpRecord
from headrace.bus.eventing.subscriptions import CompiledSubscription, SubscriptionRecord
from headrace.bus.nats.connection import Connection
from headrace.bus.store.records import Record, Records

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S: Final = 1.0
_KEPT_S: Final = 7 * 86_400.0
"""How long a record stays behind its last change and its window. So long an event is known that comes again, and so
long dispatchers may be away: the bus forgets events then, too."""


_Change = Callable[[JoinRecord], JoinRecord]


class Joining:
    """Takes the events of subscriptions with a join. Any number may work side by side."""

    def __init__(
        self,
        connection: Connection,
        records: Records[JoinRecord],
        catch_ups: Records[CatchUpRecord],
        publishing: Publishing,
    ) -> None:
        self._connection = connection
        self._records = records
        self._catch_ups = catch_ups
        self._publishing = publishing

    async def take(
        self, subscription: CompiledSubscription, join: CompiledJoin, event: CloudEvent, sequence: int, stored_at: float
    ) -> None:
        """Take one event; tell of the sets that it has closed.

        Raises `InputFailed` when it has no key, `StreamFull` and `BusUnavailable`; taking it again has one effect.
        """
        fits = join.fits(event)
        if not fits:
            return
        record, key = subscription.record, join.key(event)
        part = Part(id=message_id(event, record.bus), sequence=sequence, at=stored_at)
        within_s, all_names = join.join.within_s, tuple(join.filters)

        def changed(known: JoinRecord) -> JoinRecord:
            return known.with_part(fits, part, all_names, within_s)

        row = await self._change(record.subscription_id, key, within_s, changed)
        await self._see_to(record, join, row)

    async def on_due(self, subscription: CompiledSubscription, waiting: Waiting, due: float) -> None:
        """The window of a part is over. Raises `StreamFull` and `BusUnavailable`."""
        join, record, key = subscription.join, subscription.record, waiting.delivery.source
        if join is None:
            return
        if not await self._all_taken(record, due):
            # The others may lie on the bus since long ago, and nobody has looked yet.
            await self._wait(record, key, datetime.now(UTC) + timedelta(seconds=_LOOK_AGAIN_S), due)
            return
        within_s = join.join.within_s
        row = await self._change(record.subscription_id, key, within_s, lambda known: known.expired(due, within_s))
        await self._see_to(record, join, row)

    async def _change(self, subscription: UUID, key: str, within_s: float, change: _Change) -> Record[JoinRecord]:
        place = _place(subscription, key)
        ttl_s = within_s + _KEPT_S
        while True:
            found = await self._records.get(place)
            known = JoinRecord(key=key) if found is None else found.value
            wanted = change(known)
            if found is not None and wanted == known:
                return found
            try:
                if found is None:
                    return Record(place, wanted, await self._records.create(place, wanted, ttl_s=ttl_s))
                return await self._records.update(found, wanted, ttl_s=ttl_s)
            except RecordConflict:
                continue

    async def _see_to(self, record: SubscriptionRecord, join: CompiledJoin, row: Record[JoinRecord]) -> None:
        """Tell of what is closed, and be woken when the next window is over."""
        within_s, key = join.join.within_s, row.value.key
        due = row.value.due(within_s)
        if due is not None:
            # A moment later: a part that is stored at the very end still belongs to it.
            end = due + 0.001
            await self._wait(record, key, datetime.fromtimestamp(end, UTC), end)
        for closed in row.value.closed:
            await self._tell(record, key, closed)
            await self._change(record.subscription_id, key, within_s, functools.partial(JoinRecord.told, closed=closed))

    async def _wait(self, record: SubscriptionRecord, key: str, at: datetime, due: float) -> None:
        name = _place(record.subscription_id, key)
        delivery = Delivery(record.subscription_id, record.bus, 0, key, name, published_at=due)
        await wait_until(self._connection, Waiting(delivery, b"", JOIN), record.subscription_id, at)

    async def _all_taken(self, record: SubscriptionRecord, due: float) -> bool:
        """Whether every event that was stored by then has been looked at."""
        if record.start is not None and record.start.after < record.after_sequence:
            found = await self._catch_ups.get(record.subscription_id.hex)
            if found is None or found.value.position < record.after_sequence:
                return False
        try:
            return await has_matched(self._connection, record.bus, due)
        except StreamMissing:
            return True

    async def _tell(self, record: SubscriptionRecord, key: str, closed: ClosedSet) -> None:
        event = await self._event(record, key, closed)
        try:
            await self._publishing.publish(event, bus=record.bus, publisher=record.owner, check=True)
        except (BusMissing, PublishingForbidden, EventUnfit, PayloadTooLarge, StreamMissing) as error:
            logger.warning(
                "What has come together for subscription %s cannot be published on the bus %s: %s",
                record.subscription_id,
                record.bus,
                error,
                extra={"action": "join_untold", "subscription": str(record.subscription_id)},
            )

    async def _event(self, record: SubscriptionRecord, key: str, closed: ClosedSet) -> CloudEvent:
        found = {name: [await self._read(record.bus, each) for each in parts] for name, parts in closed.parts.items()}
        latest = max((each for parts in closed.parts.values() for each in parts), key=lambda each: each.at)
        causes = [each for some in found.values() for each in some if each is not None]
        documents = {
            name: [None if each is None else dict(each.document) for each in some] for name, some in found.items()
        }
        event = _told(record, key, closed, causes, documents, latest)
        if len(event.encode()) <= MOST_EVENT_BYTES:
            return event
        # Too large together: who needs the data reads it from the bus, by the sequences.
        small = {name: [_without_data(each) for each in some] for name, some in documents.items()}
        return _told(record, key, closed, causes, small, latest)

    async def _read(self, bus: str, part: Part) -> CloudEvent | None:
        messages, _ = await self._connection.read_many(names.event_stream(bus), {"seq": part.sequence})
        if not messages or messages[0].sequence != part.sequence:
            return None  # The bus has forgotten it.
        return CloudEvent.of_stored(messages[0].data)


def _told(
    record: SubscriptionRecord,
    key: str,
    closed: ClosedSet,
    causes: list[CloudEvent],
    documents: dict[str, list[Any]],
    latest: Part,
) -> CloudEvent:
    complete = closed.kind == "complete"
    chain = list(dict.fromkeys(link for each in causes for link in chain_of(each)))[-16:]
    correlation = next((each.attributes[CORRELATION] for each in causes if CORRELATION in each.attributes), key)
    data = {
        "subscription_id": str(record.subscription_id),
        "subscription_name": record.name,
        "key": key,
        "events": {name: some[0] if complete else some for name, some in documents.items()},
        "sequences": {name: [each.sequence for each in parts] for name, parts in closed.parts.items()},
    }
    document: dict[str, Any] = {
        "specversion": "1.0",
        "id": closed.name(record.subscription_id.hex, key),
        "source": record.joined_source if complete else f"/headrace/subscriptions/{record.subscription_id}",
        "type": COMPLETE_TYPE if complete else EXPIRED_TYPE,
        "datacontenttype": "application/json",
        # When the last of its parts was stored, whoever tells it.
        "time": datetime.fromtimestamp(latest.at, UTC).isoformat(),
        **({CORRELATION: str(correlation)[:1000]} if correlation and str(correlation).isprintable() else {}),
        **({CHAIN: ".".join(chain)} if chain else {}),
        "data": data,
    }
    return CloudEvent.of_valid(document)


def _without_data(document: dict[str, Any] | None) -> dict[str, Any] | None:
    if document is None:
        return None
    return {name: value for name, value in document.items() if name not in ("data", "data_base64")}


def _place(subscription: UUID, key: str) -> str:
    digest = hashlib.blake2b(key.encode(), digest_size=16, person=b"headrace join").hexdigest()
    return f"{subscription.hex}.{digest}"
