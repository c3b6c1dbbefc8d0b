"""Matching: events of a bus meet the subscriptions to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from headrace.bus import names
from headrace.bus.errors import BusUnavailable, DecodeError, InputFailed, StreamMissing
from headrace.bus.eventing.burials import Burials
from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.joining import Joining
from headrace.bus.eventing.rights import Rights
from headrace.bus.eventing.roster import Roster
from headrace.bus.eventing.schedules.runs import TickRuns
from headrace.bus.eventing.sending import Sender
from headrace.bus.eventing.subscriptions import CompiledSubscription
from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.intake import Intake
from headrace.bus.nats.pull import Delivery as Taken
from headrace.bus.nats.steadfast import LOST_BUS_WAIT_S

logger = logging.getLogger(__name__)

_CATCH_UP_PAGE = 200
_TOGETHER = 50


class Matcher:
    """Starts a delivery for each event and subscription that belong together."""

    def __init__(
        self,
        connection: Connection,
        roster: Roster,
        rights: Rights,
        sender: Sender,
        runs: TickRuns,
        joining: Joining,
        burials: Burials,
        *,
        count: Callable[[str], None],
    ) -> None:
        """`runs` are those of the ticks of schedules; `count` is told of each event that is matched."""
        self._rights = rights
        self._connection = connection
        self._roster = roster
        self._sender = sender
        self._runs = runs
        self._joining = joining
        self._burials = burials
        self._count = count

    def intake(self, bus: str, *, on_refused: Callable[[], None] = lambda: None) -> Intake:
        """The one matcher of a bus: what to run to have its events delivered; `on_refused` as `Intake` has it."""

        async def on_event(taken: Taken) -> None:
            try:
                event = CloudEvent.of_stored(taken.data)
            except DecodeError as error:
                logger.error(
                    "Event %d of bus %s cannot be read and is passed over: %s",
                    taken.sequence,
                    bus,
                    error,
                    extra={"action": "event_unreadable", "sequence": taken.sequence},
                )
                return
            self._count("matched")
            matching = self._roster.matching(bus, event, taken.sequence, taken.stored_ns / 1e9)
            if not await self._runs.begin(bus, event, [each.record.subscription_id for each in matching]):
                return
            starts = [
                self._start(subscription, event, taken.sequence, taken.stored_ns / 1e9) for subscription in matching
            ]
            await (starts[0] if len(starts) == 1 else _all(starts))

        return Intake(
            self._connection, names.event_stream(bus), names.matcher_consumer(bus), on_event, on_refused=on_refused
        )

    async def _start(
        self, subscription: CompiledSubscription, event: CloudEvent, sequence: int, stored_at: float
    ) -> bool:
        record = subscription.record
        if not await self._rights.may_read(record.owner, record.bus, record.linked):
            # No dead letter either: that would hold the event.
            logger.warning(
                "The owner of subscription %s may not subscribe to the bus %s any more: event %d is not delivered.",
                record.subscription_id,
                record.bus,
                sequence,
                extra={"action": "delivery_withheld", "subscription": str(record.subscription_id)},
            )
            return True
        delivery = Delivery(
            record.subscription_id, record.bus, sequence, event.source, event.id, published_at=stored_at
        )
        if subscription.join is not None and not subscription.has_joined(event):
            try:
                await self._joining.take(subscription, subscription.join, event, sequence, stored_at)
            except InputFailed as error:
                await self._burials.bury(record, delivery, event, f"the join's key: {error}", error.code)
            return True
        return await self._sender.send(subscription, delivery, event)

    async def catch_up(self) -> None:
        """Deliver events that came after a subscription was made, but were matched before we heard of it."""
        while True:
            subscription, missed = await self._roster.late()
            while missed and self._roster.get(subscription.record.subscription_id):
                try:
                    missed = await self.offer(subscription, missed)
                except StreamMissing:
                    break  # the bus was deleted
                except BusUnavailable:
                    await asyncio.sleep(LOST_BUS_WAIT_S)

    async def offer(self, subscription: CompiledSubscription, sequences: range, *, full_wait_s: float = 0.0) -> range:
        """Deliver the first of these events; gives the sequences that are left. Waits `full_wait_s` where the
        endpoint's queue is full."""
        bus = subscription.record.bus
        query = {"seq": sequences.start, "next_by_subj": names.bus_events(bus), "batch": _CATCH_UP_PAGE}
        messages, _ = await self._connection.read_many(names.event_stream(bus), query)
        wanted = [message for message in messages if message.sequence in sequences]
        # What is queued for flow control keeps its order; the rest goes side by side, as live events do.
        together = 1 if subscription.record.queued else _TOGETHER
        for start in range(0, len(wanted), together):
            some = [self._offered(subscription, message) for message in wanted[start : start + together]]
            if not all(await _all(some)):
                await asyncio.sleep(full_wait_s)
        return range(messages[-1].sequence + 1, sequences.stop) if messages else range(0)

    async def _offered(self, subscription: CompiledSubscription, message: StoredMessage) -> bool:
        """Deliver a stored event, if it is one for it; gives False where there was no room."""
        try:
            event = CloudEvent.of_stored(message.data)
        except DecodeError:
            return True  # Whoever matched it has told.
        record = subscription.record
        if not subscription.gets(event, message.stored_at):
            return True
        if not await self._runs.begin(record.bus, event, [record.subscription_id]):
            return True
        return await self._start(subscription, event, message.sequence, message.stored_at)


async def _all(starts: list[Coroutine[Any, Any, bool]]) -> list[bool]:
    """Await all of them, whatever becomes of the others; then raise the first error."""
    done: list[bool] = []
    for outcome in await asyncio.gather(*starts, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
        done.append(outcome)
    return done
