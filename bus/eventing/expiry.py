"""Subscriptions that have expired: they get no further events, and go once nothing of theirs is under way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final
from uuid import UUID

from headrace.bus import names
from headrace.bus.errors import BusError, BusUnavailable, DecodeError, RecordConflict, StreamMissing
from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.progress import has_matched, has_passed
from headrace.bus.eventing.subscription_keeping import clear_after
from headrace.bus.eventing.subscriptions import CompiledSubscription, SubscriptionRecord
from headrace.bus.keys import KeyRing
from headrace.bus.nats import pages
from headrace.bus.nats.connection import Connection
from headrace.bus.store.tables import Tables
from headrace.bus.tasks.submission import DELIVERIES_GROUP
from headrace.bus.tasks.task_views import queued_tasks

logger = logging.getLogger(__name__)

LOOK_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 600.0
_PAGE = 200


def expires(subscription: CompiledSubscription) -> bool:
    """Whether a subscription ends by itself."""
    return subscription.record.expires_at is not None


class Expiry:
    """Removes subscriptions that have expired. `run` until cancelled; any number may."""

    def __init__(
        self,
        connection: Connection,
        keys: KeyRing,
        tables: Tables,
        subscriptions: Callable[[], Iterable[CompiledSubscription]],
        *,
        results_consumer: str,
        look_s: float = LOOK_S,
    ) -> None:
        """`subscriptions` gives those that there are; `results_consumer` is who reads the results of deliveries."""
        self._connection = connection
        self._keys = keys
        self._tables = tables
        self._subscriptions = subscriptions
        self._results_consumer = results_consumer
        self._look_s = look_s
        self._settled: dict[UUID, int] = {}
        self._pauses: dict[UUID, tuple[float, float]] = {}

    async def run(self) -> None:
        """Look again and again. A lost bus is waited for."""
        while True:
            await asyncio.sleep(self._look_s)
            now = time.time()
            records = (each.record for each in self._subscriptions())
            expired = [each for each in records if each.expires_at is not None and each.expires_at < now]
            for record in expired:
                try:
                    await self._see_to(record, now)
                except BusUnavailable:
                    break
                except BusError as error:
                    logger.warning(
                        "Subscription %s has expired, and cannot be removed now (%s); trying again.",
                        record.subscription_id,
                        error,
                        extra={"action": "expiry_waits", "subscription": str(record.subscription_id)},
                    )
            gone = self._pauses.keys() - {each.subscription_id for each in expired}
            for each in gone:
                self._pauses.pop(each)
                self._settled.pop(each, None)

    async def _see_to(self, record: SubscriptionRecord, now: float) -> None:
        name = record.subscription_id
        look_at, pause_s = self._pauses.get(name, (0.0, self._look_s))
        if now < look_at:
            return
        if await self._is_under_way(record):
            self._settled.pop(name, None)
            # A queue may be long, and its endpoint away for weeks.
            self._pauses[name] = (now + pause_s, min(pause_s * 2, _LONGEST_PAUSE_S))
            return
        self._pauses[name] = (now, self._look_s)
        # Between its queue and its next attempt a delivery is a result that nobody has read: all results up to the
        # first look that found nothing must have been read when a second one finds nothing.
        settled = self._settled.get(name)
        if settled is None:
            self._settled[name] = int((await self._connection.api("STREAM.INFO.RESULTS"))["state"]["last_seq"])
        elif await has_passed(self._connection, "RESULTS", self._results_consumer, settled):
            if await self._is_under_way(record):
                self._settled.pop(name)
            else:
                await self._remove(record)

    async def _remove(self, record: SubscriptionRecord) -> None:
        found = await self._tables.subscriptions.get(record.subscription_id.hex)
        if found is None or found.value.expires_at != record.expires_at:
            return  # It was changed since.
        try:
            await self._tables.subscriptions.remove(found)
        except RecordConflict:
            return
        await clear_after(self._connection, self._tables, record)
        logger.info(
            "Subscription %s has expired and is removed.",
            record.subscription_id,
            extra={"action": "subscription_expired", "subscription": str(record.subscription_id)},
        )

    async def _is_under_way(self, record: SubscriptionRecord) -> bool:
        """Whether events from before its end are still to be matched, or deliveries of it still wait or run."""
        try:
            return (
                not await self._all_matched(record) or await self._has_waiting(record) or await self._has_queued(record)
            )
        except StreamMissing:
            return False  # The bus was deleted.

    async def _all_matched(self, record: SubscriptionRecord) -> bool:
        expires_at = record.expires_at or 0.0
        return await has_matched(self._connection, record.bus, expires_at)

    async def _has_waiting(self, record: SubscriptionRecord) -> bool:
        subject = names.deliveries_of(record.subscription_id)
        info = await self._connection.api("STREAM.INFO.DELIVERIES", {"subjects_filter": subject})
        return any(not each.endswith(".done") for each in info["state"].get("subjects") or ())

    async def _has_queued(self, record: SubscriptionRecord) -> bool:
        subject = f"task.*.*.{names.token(record.owner)}.{DELIVERIES_GROUP.hex}.*"
        async for page in pages.messages(self._connection, "TASKS", subject, start=1, batch=_PAGE):
            for view in queued_tasks(self._keys, page).values():
                try:
                    if Delivery.decode(view.origin).subscription == record.subscription_id:
                        return True
                except DecodeError:
                    continue
        return False
