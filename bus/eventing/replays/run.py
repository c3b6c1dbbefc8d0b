"""One replay by whoever holds its lease: events read in their order, sent one by one, and how far that has come.

The position is saved each second, with the counts that belong to it. Whoever goes on behind it makes the deliveries of
the second before once more, under the same ids: they find their bundles queued, or their results stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

import msgspec

from headrace.bus.errors import (
    BusUnavailable,
    DeliveryForbidden,
    FilterInvalid,
    QueueFull,
    RecordConflict,
    StreamFull,
    StreamMissing,
)
from headrace.bus.eventing.arrivals import Arrived, arrived_after
from headrace.bus.eventing.flow.queue import depth
from headrace.bus.eventing.replays.models import ReplayRecord, ReplayState
from headrace.bus.eventing.rights import Rights
from headrace.bus.eventing.sending import Sender
from headrace.bus.eventing.subscriptions import CompiledSubscription, SubscriptionRecord
from headrace.bus.filters import Filter, compile_filter
from headrace.bus.names import event_stream
from headrace.bus.nats.connection import Connection
from headrace.bus.store.records import Record, Records

logger = logging.getLogger(__name__)

FindSubscription = Callable[[UUID], Awaitable[CompiledSubscription | None]]

_SAVED_EVERY_S: Final = 1.0
_FULL_WAIT_S: Final = 1.0
_MOST_QUEUED: Final = 200
"""Of a subscription with flow control: what is published now waits behind no more."""


class ReplayRun:
    """The work on one replay until it ends, or is stopped. `stop` may be set from elsewhere: its record has changed."""

    def __init__(
        self,
        connection: Connection,
        replays: Records[ReplayRecord],
        row: Record[ReplayRecord],
        *,
        sender: Sender,
        rights: Rights,
        find: FindSubscription,
    ) -> None:
        self._connection = connection
        self._replays = replays
        self._row = row
        self._now = row.value
        """The record as it is to be saved."""
        self._sender = sender
        self._rights = rights
        self._find = find
        self._wanted: Filter | None = None
        self._saved_at = self._next_at = time.monotonic()
        self.stop = asyncio.Event()

    async def work(self) -> None:
        """Send what is left, and write the end. Raises `BusUnavailable`."""
        try:
            if self._now.filter is not None:
                self._wanted = compile_filter(self._now.filter)
            await self._send_all()
        except (DeliveryForbidden, FilterInvalid) as error:
            await self._end("failed", str(error))
        except StreamMissing:
            await self._end("failed", f"there is no bus {self._now.bus!r} any more")
        except BusUnavailable:
            raise
        except Exception as error:
            # It would be the same the next time: its owner is to see it, and may let it go on.
            logger.exception("An unexpected error ended a replay.", extra={"action": "replay_broken"})
            await self._end("failed", f"an internal error: {error}")
        else:
            await self._end("finished")

    async def _send_all(self) -> None:
        while self._now.position < self._now.last and not self.stop.is_set():
            page, more = await arrived_after(self._connection, self._now.bus, self._now.position)
            for arrived in page:
                if arrived.sequence > self._now.last or self.stop.is_set():
                    break
                await self._take(arrived)
            if self.stop.is_set():
                return
            if not more or not page or page[-1].sequence > self._now.last:
                await self._pass_over(self._now.last + 1)
            await self._save()

    async def _take(self, arrived: Arrived) -> None:
        await self._pass_over(arrived.sequence)
        sent = is_queued = False
        if arrived.event is not None and (self._wanted is None or self._wanted.matches(arrived.event)):
            subscription = await self._subscription()
            if subscription.filter.matches(arrived.event) and not subscription.is_part(arrived.event):
                await self._send(subscription, arrived)
                if self.stop.is_set():
                    return
                sent = True
                is_queued = subscription.record.queued or subscription.record.target is not None
        self._now = msgspec.structs.replace(
            self._now,
            position=arrived.sequence,
            looked_at=self._now.looked_at + 1,
            unreadable=self._now.unreadable + (arrived.event is None),
            sent=self._now.sent + sent,
        )
        # A batch does not know who was in an earlier one, nor does a sink: for these no seconds are repeated.
        if is_queued or time.monotonic() - self._saved_at >= _SAVED_EVERY_S:
            await self._save()

    async def _send(self, subscription: CompiledSubscription, arrived: Arrived) -> None:
        """Make one delivery when it is time; with `stop` it is not made."""
        event = arrived.event
        if event is None:
            raise ValueError(f"event {arrived.sequence} cannot be read")
        await self._pause(self._next_at - time.monotonic())
        while not self.stop.is_set():
            await self._check(subscription)
            if await self._must_wait(subscription.record):
                await self._save()
                await self._pause(_FULL_WAIT_S)
                subscription = await self._subscription()
                continue
            try:
                # One after the other: side by side they would be stored in the order in which the bus answers.
                await self._sender.send_now(subscription, self._now.delivery(arrived.sequence, event), event)
            except (QueueFull, StreamFull):
                # There is room once something was run: until then nothing is moved to where it would wait out of order.
                await self._save()
                await self._pause(_FULL_WAIT_S)
                continue
            # What was held up is not made up for in a rush.
            self._next_at = max(self._next_at + 1 / self._now.per_second, time.monotonic())
            return

    async def _must_wait(self, record: SubscriptionRecord) -> bool:
        """Whether the subscription rests, or has so much in its queue that what comes now would wait for long."""
        if record.pauses.now is not None:
            return True
        return record.flow is not None and await depth(self._connection, record.subscription_id) >= _MOST_QUEUED

    async def _subscription(self) -> CompiledSubscription:
        found = await self._find(self._now.delivers_to)
        if found is None:
            raise DeliveryForbidden(f"there is no subscription {self._now.delivers_to} any more")
        return found

    async def _check(self, subscription: CompiledSubscription) -> None:
        """A right that was withdrawn ends the replay, and does not make each of its deliveries a dead letter."""
        record = subscription.record
        if not await self._rights.may_read(record.owner, record.bus, record.linked):
            raise DeliveryForbidden(f"{record.owner} may not subscribe to the bus {record.bus!r} any more")
        if record.endpoint is None and record.target is None:
            await self._rights.check(record.owner, record.function_id, record.endpoint_id, record.linked)

    async def _pass_over(self, sequence: int) -> None:
        """Count what is missing up to this sequence: all that its stream holds belongs to the bus."""
        first, last = self._now.position + 1, sequence - 1
        if first > last:
            return
        state = (await self._connection.api(f"STREAM.INFO.{event_stream(self._now.bus)}"))["state"]
        expired = min(last, int(state["first_seq"]) - 1)
        if expired >= first:
            self._now = self._now.without(first, expired, "expired")
        if expired < last:
            self._now = self._now.without(max(first, expired + 1), last, "deleted")

    async def _pause(self, pause_s: float) -> None:
        if pause_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self.stop.wait()

    async def _end(self, state: ReplayState, problem: str = "") -> None:
        if not self.stop.is_set():
            self._now = msgspec.structs.replace(self._now, state=state, problem=problem, ended_at=time.time())
        await self._save()
        if self._now.ended:
            logger.info(
                "Replay %s: %s, %d deliveries%s.",
                self._now.replay_id,
                self._now.state,
                self._now.sent,
                f" ({problem})" if problem else "",
                extra={"action": "replay_ended", "replay": str(self._now.replay_id), "state": self._now.state},
            )

    async def _save(self) -> None:
        """Write how far it has come. What its owner, or another holder, wrote since stands: then it is stopped."""
        self._saved_at = time.monotonic()
        while self._now != self._row.value:
            try:
                self._row = await self._replays.update(self._row, self._now, ttl_s=self._now.ttl_s)
            except RecordConflict:
                found = await self._replays.get(self._row.key)
                if found is None or found.value.position > self._now.position:
                    self.stop.set()
                    return
                self._adopt(found)

    def _adopt(self, found: Record[ReplayRecord]) -> None:
        if found.value.state != "running":
            # Paused or cancelled at this moment: the counts are kept, and the end is left to whoever resumes it.
            self.stop.set()
            ended = {"state": found.value.state, "problem": found.value.problem, "ended_at": found.value.ended_at}
            self._now = msgspec.structs.replace(self._now, **ended)
        self._now = msgspec.structs.replace(self._now, per_second=found.value.per_second)
        self._row = found
