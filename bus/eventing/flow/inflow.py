"""From the queue in the store to the scheduler: as much as it needs, and where order matters what is needed to know it.

Several dispatchers match the events of a bus at once, so the queue is not in the order of events. But an event is acked
only when all that follows from it is queued: up to the point to which the matcher's consumer is acked, everything is
there. So where there is an order, the queue is read to its end, and only what is not behind that point may begin.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Final
from uuid import UUID

from headrace.bus import names
from headrace.bus.errors import DecodeError, EndpointNotAllowed, InputFailed
from headrace.bus.eventing.arrivals import arrived_after
from headrace.bus.eventing.deliveries import Delivery, Waiting
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.flow import queue
from headrace.bus.eventing.flow.plans import Plan, single
from headrace.bus.eventing.flow.policy import compile_order
from headrace.bus.eventing.flow.scheduler import Entry, Scheduler
from headrace.bus.eventing.starts import CatchUpRecord
from headrace.bus.eventing.subscriptions import CompiledSubscription, last_sequence
from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.connection import Connection
from headrace.bus.store.records import Records

logger = logging.getLogger(__name__)

_PAGE: Final = 256
_ENOUGH: Final = 256
"""So many entries that have not begun are read ahead where there is no order, and no larger batch."""
_MOST_HELD_BYTES: Final = 8 * 1024 * 1024
"""Messages of entries that have not begun are held up to here, others read again when they begin."""
_FIRST_LOOK_S: Final = 0.005
_LONGEST_LOOK_S: Final = 0.5
_HEARD_OF_S: Final = 1.0
"""By then all dispatchers have heard of a new subscription."""
_NEW_S: Final = 60.0


class Inflow:
    """Reads the queue of a subscription into its scheduler."""

    def __init__(
        self,
        connection: Connection,
        subscription: CompiledSubscription,
        scheduler: Scheduler,
        catch_ups: Records[CatchUpRecord],
    ) -> None:
        """`catch_ups` say how far subscriptions have come that start in the past."""
        self._catch_ups = catch_ups
        self._connection = connection
        self._subscription = subscription
        self._record = subscription.record
        self._id = subscription.record.subscription_id
        self._scheduler = scheduler
        flow = subscription.record.flow
        self._key = compile_order(flow.order_by if flow else None)
        self._enough = max(_ENOUGH, 2 * flow.batch.size if flow and flow.batch else 0)
        self._position = 0
        self._more = True
        self._planned: set[int] = set()
        self._held_bytes = 0
        self.next_look_s = _FIRST_LOOK_S

    def leave_out(self, plan: Plan) -> None:
        """The deliveries of a plan begin with it."""
        self._planned.update(member.place for member in plan.members)

    def look_again(self, more: bool) -> None:
        """There may be `more` in the queue; the next `fill` looks."""
        self._more = self._more or more

    async def fill(self) -> None:
        """Read what the scheduler needs now. Raises `BusUnavailable`."""
        if self._key is None:
            while self._more and self._scheduler.waiting < self._enough:
                await self._read_page()
        elif self._more or self._scheduler.held_back:
            # Asked before the queue is read: what is acked now was queued before now.
            matched = await self._matched()
            while self._more:
                await self._read_page()
            self._scheduler.see(matched)
            self.next_look_s = (
                min(2 * self.next_look_s, _LONGEST_LOOK_S) if self._scheduler.held_back else _FIRST_LOOK_S
            )

    async def message(self, entry: Entry) -> Waiting | None:
        """What an entry stands for; None when it is not queued any more."""
        if entry.message is not None:
            self._held_bytes -= len(entry.message)
            return Waiting.decode(entry.message)
        return await queue.read_place(self._connection, entry.place)

    async def queued_as(self, bundle: str) -> Plan | None:
        """The plan of the delivery that is queued with this bundle (hex); None when there is none any more."""
        try:
            found = await queue.read_bundle(self._connection, self._id, UUID(bundle))
            if found is None:
                return None
            place, waiting = found
            key = self._key(CloudEvent.of_stored(waiting.event).document) if self._key else None
        except DecodeError:
            return None
        return single(place, waiting.delivery, waiting.delivery.place(self._record.endpoint_id), key)

    async def gather_early(self) -> None:
        """Where order matters, a new subscription begins when nothing earlier can come any more: every dispatcher has
        heard of it, and what they matched before that is queued here. Raises `BusUnavailable`."""
        age_s = time.time() - self._record.created_at
        if self._key is None or self._record.join is not None or age_s > _NEW_S:
            return
        await asyncio.sleep(max(0.0, _HEARD_OF_S - age_s))
        position, newest = self._record.after_sequence, await last_sequence(self._connection, bus=self._record.bus)
        more = position < newest
        while more and position < newest:
            arrived, more = await arrived_after(self._connection, self._record.bus, position)
            for each in arrived:
                position = each.sequence
                if each.event is not None and self._subscription.gets(each.event, each.stored_at):
                    with contextlib.suppress(EndpointNotAllowed, InputFailed):  # whoever matched it has seen to that
                        await self._enqueue(each.sequence, each.event, each.stored_at)

    async def _enqueue(self, sequence: int, event: CloudEvent, stored_at: float) -> None:
        delivery = Delivery(
            self._id,
            self._record.bus,
            sequence,
            event.source,
            event.id,
            endpoint=self._subscription.places.first(event),
            published_at=stored_at,
        )
        waiting = Waiting(delivery, event.encode())
        await queue.enqueue(self._connection, waiting, delivery.place(self._record.endpoint_id))

    async def _matched(self) -> int:
        """The event up to which all are matched, and what follows from them is queued."""
        bus, start = self._record.bus, self._record.start
        if start is not None and start.after < self._record.after_sequence:
            found = await self._catch_ups.get(self._id.hex)
            caught_up = start.after if found is None else found.value.position
            if caught_up < self._record.after_sequence:
                return caught_up
        info = await self._connection.api(f"CONSUMER.INFO.{names.event_stream(bus)}.{names.matcher_consumer(bus)}")
        position = info["delivered"] if not info["num_ack_pending"] else info["ack_floor"]
        return int(position["stream_seq"])

    async def _read_page(self) -> None:
        self._more = False
        messages, more = await queue.read_queued(self._connection, self._id, after=self._position, most=_PAGE)
        for message in messages:
            self._position = message.sequence
            if self._is_dropped(message.sequence):
                await queue.remove(self._connection, [message.sequence])
            elif message.sequence not in self._planned:
                self._add(message)
        self._more = self._more or (more > 0 and bool(messages))

    def _add(self, message: StoredMessage) -> None:
        try:
            waiting = Waiting.decode(message.data)
            key = self._key(CloudEvent.of_stored(waiting.event).document) if self._key else None
        except DecodeError as error:
            logger.error("A queued delivery cannot be read and is left: %s", error, extra={"action": "unreadable"})
            return
        held = self._held_bytes + len(message.data) <= _MOST_HELD_BYTES
        self._held_bytes += len(message.data) if held else 0
        self._scheduler.add(
            Entry(
                place=message.sequence,
                order=waiting.delivery.sequence,
                key=key,
                size=len(waiting.event),
                queued_at=message.stored_at,
                fresh=waiting.delivery.attempt == 1,
                message=message.data if held else None,
            )
        )

    def _is_dropped(self, place: int) -> bool:
        return any(after < place <= upto for after, upto in self._record.pauses.dropped)
