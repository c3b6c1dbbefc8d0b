"""Where a subscription starts: with the events that come, or with some that its bus has already.

What was stored before the subscription was made is delivered page by page, beside the events that come meanwhile.
How far that is lies in a record, written after each page, so that it goes on where it was, whichever dispatcher dies;
one at a time does it, by a lease. The ids of deliveries see to it that a page that is offered twice is delivered once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.bus.errors import BusError, BusUnavailable, StreamMissing
from headrace.bus.eventing.arrivals import sequence_before
from headrace.bus.eventing.leases import Lease, Leases
from headrace.bus.eventing.lifetimes import StartPosition, moment
from headrace.bus.eventing.roster import Roster
from headrace.bus.eventing.subscriptions import CompiledSubscription
from headrace.bus.nats.connection import Connection
from headrace.bus.store.records import Records

logger = logging.getLogger(__name__)

LEASE: Final = "catch-up."
_LOOK_S: Final = 0.25
_PAUSE_S: Final = 0.5
_LONG_PAUSE_S: Final = 5.0

Offer = Callable[[CompiledSubscription, range], Awaitable[range]]


async def start_position(connection: Connection, bus: str, asked: Any) -> StartPosition | None:
    """Where a subscription starts: `now` (None), `earliest`, `{"time": …}` or `{"sequence": n}`.

    Raises `ValueError` for a time that is none, or has no offset, and `BusUnavailable`.
    """
    if asked in (None, "now"):
        return None
    if asked == "earliest":
        return StartPosition(after=0, asked=asked)
    if "sequence" in asked:
        return StartPosition(after=int(asked["sequence"]) - 1, asked=asked)
    return StartPosition(after=await sequence_before(connection, moment(asked["time"]), bus=bus), asked=asked)


class CatchUpRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How far a subscription has come with what was there before it: `position` is the last event that was offered."""

    position: int


class CatchUps:
    """Delivers what was there before subscriptions were made. `run` until cancelled, beside the leases."""

    def __init__(self, roster: Roster, leases: Leases, records: Records[CatchUpRecord], offer: Offer) -> None:
        """`offer` delivers the first of a range of events, and gives the range that is left."""
        self._roster = roster
        self._early = roster.select(_begins_in_the_past)
        self._leases = leases
        self._records = records
        self._offer = offer
        self._under_way: dict[UUID, asyncio.Task[None]] = {}
        self._done: set[UUID] = set()

    async def run(self) -> None:
        """See to every subscription that starts in the past."""
        async with asyncio.TaskGroup() as group:
            while True:
                wanted = {each.record.subscription_id for each in self._early.all()}
                self._done &= wanted
                for each in wanted - self._done - self._under_way.keys():
                    task = group.create_task(self._see_to(each), name=f"catch-up of {each}")
                    self._under_way[each] = task
                await asyncio.sleep(_LOOK_S)

    async def _see_to(self, subscription: UUID) -> None:
        async def work(_lease: Lease) -> None:
            await self._catch_up(subscription)

        try:
            if await self._position(subscription) is not None:
                await self._leases.keep(f"{LEASE}{subscription.hex}", work)
            self._done.add(subscription)
        finally:
            del self._under_way[subscription]

    async def _position(self, subscription: UUID) -> int | None:
        """The last event that was offered; None when all were, or the subscription has gone."""
        while True:
            known = self._roster.get(subscription)
            if known is None or known.record.start is None:
                return None
            try:
                found = await self._records.get(subscription.hex)
            except BusUnavailable:
                await asyncio.sleep(_PAUSE_S)
                continue
            position = known.record.start.after if found is None else found.value.position
            return position if position < known.record.after_sequence else None

    async def _catch_up(self, subscription: UUID) -> None:
        while (position := await self._position(subscription)) is not None:
            known = self._roster.get(subscription)
            if known is None:
                return
            try:
                left = await self._offer(known, range(position + 1, known.record.after_sequence + 1))
                position = left.start - 1 if left else known.record.after_sequence
                await self._records.put(subscription.hex, CatchUpRecord(position=position))
            except StreamMissing:
                return
            except BusUnavailable:
                await asyncio.sleep(_PAUSE_S)
            except BusError as error:
                logger.warning(
                    "Subscription %s cannot go on with what was there before it (%s); trying again.",
                    subscription,
                    error,
                    extra={"action": "catch_up_waits", "subscription": str(subscription)},
                )
                await asyncio.sleep(_LONG_PAUSE_S)


def _begins_in_the_past(subscription: CompiledSubscription) -> bool:
    record = subscription.record
    return record.start is not None and record.start.after < record.after_sequence
