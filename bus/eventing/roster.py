"""The subscriptions in memory, ready to be matched, and which of them were heard of late."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from uuid import UUID

from headrace.bus.errors import FilterInvalid
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.selections import Picks, Selection
from headrace.bus.eventing.subscriptions import CompiledSubscription, SubscriptionRecord
from headrace.bus.filters import FilterIndex
from headrace.bus.store.records import Record, Records, Watch

logger = logging.getLogger(__name__)

_RECENT_S = 60.0


class Roster:
    """The subscriptions to all buses, watched. `start` reads them all, `stop` ends the watching.

    An event may be matched a moment before a subscription that was made before it is heard of. So every record says
    after which event it was made, and the roster remembers the newest event of each bus: `late` gives what was missed.

    Buses come and go: `wanted` gives those that somebody subscribes to, and whoever then takes their events says so
    (`adopt`), and when it does so no more (`leave`).
    """

    def __init__(
        self,
        records: Records[SubscriptionRecord],
        newest: Mapping[str, int],
        *,
        on_change: Callable[[UUID, CompiledSubscription | None], None] = lambda _id, _subscription: None,
    ) -> None:
        """`newest` are the buses whose events are taken from the start, each with the sequence of its newest event;
        `on_change` is told of each subscription that is there or changes, and of those that are gone (None)."""
        self._records = records
        self._on_change = on_change
        self._known: dict[UUID, CompiledSubscription] = {}
        self._indexes: dict[str, FilterIndex[UUID]] = {bus: FilterIndex() for bus in newest}
        self._selections: list[Selection] = []
        self._members: dict[str, set[UUID]] = {}
        self._newest = dict(newest)
        self._asked: set[str] = set()
        self._wanted: asyncio.Queue[str] = asyncio.Queue()
        self._late: asyncio.Queue[SubscriptionRecord] = asyncio.Queue()
        self._watch: Watch[SubscriptionRecord] | None = None

    async def start(self) -> None:
        """Read all and watch. Raises `BusUnavailable`."""
        self._watch = await self._records.watch(self._changed)

    async def stop(self) -> None:
        """End the watching."""
        if self._watch is not None:
            await self._watch.stop()

    def matching(self, bus: str, event: CloudEvent, sequence: int, stored_at: float) -> list[CompiledSubscription]:
        """The subscriptions that get this event, which was stored there and then (unix seconds)."""
        self._newest[bus] = max(self._newest.get(bus, 0), sequence)
        found = (self._known[each] for each in self._indexes[bus].matching(event))
        return [subscription for subscription in found if subscription.wants(event, sequence, stored_at)]

    async def wanted(self) -> str:
        """Wait for a bus that somebody subscribes to and whose events nobody here takes."""
        return await self._wanted.get()

    def first_wanted(self, bus: str) -> int:
        """The sequence of the first event of a bus that one of its subscriptions may get."""
        after = [self._known[each].record.after_sequence for each in self._members.get(bus, ())]
        return min(after, default=0) + 1

    def is_empty(self, bus: str) -> bool:
        """Whether nobody subscribes to a bus."""
        return not self._members.get(bus)

    def adopt(self, bus: str, newest: int) -> None:
        """Somebody here takes the events of this bus from now on, whose newest one is this at the moment."""
        self._newest[bus] = newest
        for each in self._members.get(bus, ()):
            self._offer_late(self._known[each].record)

    def leave(self, bus: str) -> None:
        """Nobody here takes the events of this bus any more, until somebody subscribes to it anew."""
        self._newest.pop(bus, None)
        if self.is_empty(bus):
            self._asked.discard(bus)
        else:
            # Somebody has subscribed in the moment in which it was given up.
            self._wanted.put_nowait(bus)

    def get(self, subscription_id: UUID) -> CompiledSubscription | None:
        """A subscription that is known here, or None."""
        return self._known.get(subscription_id)

    def select(self, picks: Picks) -> Selection:
        """Those that a test picks, from here on up to date."""
        selection = Selection(picks)
        for subscription_id, subscription in self._known.items():
            selection.changed(subscription_id, subscription)
        self._selections.append(selection)
        return selection

    async def find(self, subscription_id: UUID) -> CompiledSubscription | None:
        """A subscription; one that is not known here is read. None when there is none (any more).

        Raises `BusUnavailable`, and `FilterInvalid` when this release cannot use it.
        """
        known = self._known.get(subscription_id)
        if known is not None:
            return known
        record = await self._records.get(subscription_id.hex)
        return None if record is None else CompiledSubscription.of(record.value)

    async def late(self) -> tuple[CompiledSubscription, range]:
        """Wait for a subscription that was heard of late; gives it and the sequences that it may have missed."""
        while True:
            record = await self._late.get()
            known = self._known.get(record.subscription_id)
            if known is not None:
                return known, range(record.after_sequence + 1, self._newest.get(record.bus, 0) + 1)

    def _changed(self, key: str, record: Record[SubscriptionRecord] | None) -> None:
        was_known = self._forget(UUID(key))
        self._learn(record, was_known=was_known)
        for tell in (self._on_change, *(each.changed for each in self._selections)):
            tell(UUID(key), self._known.get(UUID(key)))

    def _learn(self, record: Record[SubscriptionRecord] | None, *, was_known: bool) -> None:
        if record is None:
            return
        subscription = record.value
        try:
            compiled = CompiledSubscription.of(subscription)
        except FilterInvalid as error:
            logger.error(
                "Subscription %s cannot be used by this release, so its events go nowhere: %s",
                subscription.subscription_id,
                error,
                extra={"action": "subscription_unusable", "subscription": str(subscription.subscription_id)},
            )
            return
        self._known[subscription.subscription_id] = compiled
        bus = subscription.bus
        self._indexes.setdefault(bus, FilterIndex()).put(subscription.subscription_id, compiled.filter)
        self._members.setdefault(bus, set()).add(subscription.subscription_id)
        if bus not in self._newest:
            if bus not in self._asked:
                self._asked.add(bus)
                self._wanted.put_nowait(bus)
        elif not was_known:
            self._offer_late(subscription)

    def _offer_late(self, subscription: SubscriptionRecord) -> None:
        if self._is_late(subscription):
            self._late.put_nowait(subscription)

    def _is_late(self, subscription: SubscriptionRecord) -> bool:
        # While all is read for the first time, only the latest subscriptions can be late: a dispatcher that has died
        # since may have taken events before it heard of them. What it did deliver is not delivered twice.
        can_be = self._watch is not None or time.time() - subscription.created_at < _RECENT_S
        return can_be and subscription.after_sequence < self._newest[subscription.bus]

    def _forget(self, subscription_id: UUID) -> bool:
        known = self._known.pop(subscription_id, None)
        if known is not None:
            self._indexes[known.record.bus].remove(subscription_id)
            self._members[known.record.bus].discard(subscription_id)
        return known is not None
