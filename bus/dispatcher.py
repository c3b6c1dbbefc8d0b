"""The dispatcher: matches events, sends deliveries, watches their results.

    event      taken from EVENTS by the one matcher consumer of its bus; for each subscription that it fits, the
               delivery's bundle is stored. Acked when all of them are.
    result     taken from RESULTS; a success closes the delivery, a failure stores the next attempt in DELIVERIES with
               its time, the last failure stores a dead letter. Acked then.
    due        taken from DELIVERIES when its time has come; the attempt's bundle is stored. Acked then.

Everything that is stored has an id or subject that follows from what it belongs to, so a dispatcher that dies at any
place, and another that repeats its work, have one effect between them. Any number of dispatchers may run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any
from uuid import UUID

from headrace.bus import names, submission
from headrace.bus.bundles import ResultPart, TaskOptions, TaskResult, decode_part
from headrace.bus.connection import Connection
from headrace.bus.dead_letters import Attempt, DeadLetter, bury
from headrace.bus.deliveries import Delivery, FailedAttempt, Waiting, after, wait_until
from headrace.bus.errors import (
    ArgumentNotSerialisable,
    BusUnavailable,
    DecodeError,
    DeliveryForbidden,
    FilterInvalid,
    FunctionUnusable,
    InputFailed,
    PayloadTooLarge,
    SignatureInvalid,
    StreamFull,
    StreamMissing,
)
from headrace.bus.events import DEFAULT_BUS, CloudEvent
from headrace.bus.failures import decode_failure
from headrace.bus.filters import FilterIndex
from headrace.bus.intake import ACK_WAIT_S, Intake
from headrace.bus.keys import KeyRing
from headrace.bus.names import ResultAddress
from headrace.bus.pull import Delivery as Taken
from headrace.bus.records import Record
from headrace.bus.rights import Rights
from headrace.bus.streams import ensure_consumer
from headrace.bus.submission import DELIVERIES_GROUP, Call, Submission
from headrace.bus.subscriptions import CompiledSubscription, SubscriptionRecord, last_sequence
from headrace.bus.tables import Tables

logger = logging.getLogger(__name__)

RESULTS_CONSUMER = "deliveries-results"
DUE_CONSUMER = "deliveries-due"

OUTCOMES = ("matched", "sent", "succeeded", "failed", "postponed", "given_up")
"""What is counted: events that were matched; attempts that were sent, and how they ended; deliveries that wait for room
in a full queue, and those that became dead letters."""

_RECENT_S = 60.0
_LOST_BUS_WAIT_S = 0.5
_CATCH_UP_PAGE = 200
_MOST_ACKS_PENDING = 4096

# Nothing about these changes by trying again.
_PERMANENT = (InputFailed, DeliveryForbidden, ArgumentNotSerialisable, PayloadTooLarge)
_PERMANENT_FAILURES = frozenset((FunctionUnusable.code,))


class Dispatcher:
    """Delivers the events of some buses. `run` until cancelled; what is under way then is done by the next one."""

    def __init__(
        self,
        connection: Connection,
        keys: KeyRing,
        tables: Tables,
        *,
        buses: Sequence[str] = (DEFAULT_BUS,),
        count: Callable[[str], None] = lambda _what: None,
        full_wait_s: float = 5.0,
    ) -> None:
        """`count` is told of each of `OUTCOMES`; `full_wait_s` is how long a delivery waits for a full queue."""
        self._connection = connection
        self._keys = keys
        self._tables = tables
        self._buses = tuple(buses)
        self._count = count
        self._full_wait_s = full_wait_s
        self._rights = Rights(tables)
        self._subscriptions: dict[UUID, CompiledSubscription] = {}
        self._indexes: dict[str, FilterIndex[UUID]] = {bus: FilterIndex() for bus in self._buses}
        self._newest = dict.fromkeys(self._buses, 0)
        self._reading = False
        self._late: asyncio.Queue[SubscriptionRecord] = asyncio.Queue()

    async def run(self) -> None:
        """Deliver until cancelled. A lost bus is waited for."""
        while True:
            try:
                await self._connection.wait_connected(None)
                await self._run()
            except* BusUnavailable as lost:
                logger.warning(
                    "The dispatcher lost the bus (%s); it goes on when the bus is back.",
                    lost.exceptions[0],
                    extra={"action": "dispatcher_waits"},
                )
            await asyncio.sleep(_LOST_BUS_WAIT_S)

    async def _run(self) -> None:
        self._subscriptions.clear()
        self._indexes = {bus: FilterIndex() for bus in self._buses}
        await self._ensure_consumers()
        self._newest = dict.fromkeys(self._buses, await last_sequence(self._connection))
        self._reading = True
        async with contextlib.AsyncExitStack() as stack:
            await self._rights.start()
            stack.push_async_callback(self._rights.stop)
            # Before the first event is taken: an event must meet every subscription that was there when it came.
            watch = await self._tables.subscriptions.watch(self._changed)
            stack.push_async_callback(watch.stop)
            self._reading = False
            async with asyncio.TaskGroup() as group:
                for bus in self._buses:
                    group.create_task(self._matcher(bus).run(), name=f"matcher of {bus}")
                results = Intake(self._connection, "RESULTS", RESULTS_CONSUMER, self._on_result)
                group.create_task(results.run(), name="results of deliveries")
                due = Intake(self._connection, "DELIVERIES", DUE_CONSUMER, self._on_due)
                group.create_task(due.run(), name="due deliveries")
                group.create_task(self._catch_up(), name="late subscriptions")
                logger.info("The dispatcher delivers events.", extra={"action": "dispatcher_ready"})

    async def _ensure_consumers(self) -> None:
        filters = {("EVENTS", names.matcher_consumer(bus)): names.bus_events(bus) for bus in self._buses}
        filters["RESULTS", RESULTS_CONSUMER] = names.group_results(DELIVERIES_GROUP)
        filters["DELIVERIES", DUE_CONSUMER] = names.ALL_DUE_DELIVERIES
        for (stream, consumer), subject in filters.items():
            await ensure_consumer(
                self._connection,
                stream,
                consumer,
                filter_subjects=(subject,),
                ack_wait_s=ACK_WAIT_S,
                max_ack_pending=_MOST_ACKS_PENDING,
            )

    # --- subscriptions ----------------------------------------------------------------------------------------------

    def _changed(self, key: str, record: Record[SubscriptionRecord] | None) -> None:
        was_known = self._forget(UUID(key))
        if record is None:
            return
        subscription = record.value
        index = self._indexes.get(subscription.bus)
        if index is None:
            return
        try:
            compiled = CompiledSubscription.of(subscription)
        except FilterInvalid as error:
            logger.error(
                "Subscription %s cannot be used by this release, so its events wait for no one: %s",
                subscription.subscription_id,
                error,
                extra={"action": "subscription_unusable", "subscription": str(subscription.subscription_id)},
            )
            return
        self._subscriptions[subscription.subscription_id] = compiled
        index.put(subscription.subscription_id, compiled.filter)
        # At the start only the latest subscriptions can be news: a dispatcher that has died since may have taken events
        # before it heard of them. What it did deliver is not delivered twice.
        news = not was_known and (not self._reading or time.time() - subscription.created_at < _RECENT_S)
        if news and subscription.after_sequence < self._newest[subscription.bus]:
            self._late.put_nowait(subscription)

    def _forget(self, subscription_id: UUID) -> bool:
        known = self._subscriptions.pop(subscription_id, None)
        if known is not None:
            self._indexes[known.record.bus].remove(subscription_id)
        return known is not None

    async def _find(self, subscription_id: UUID) -> CompiledSubscription | None:
        known = self._subscriptions.get(subscription_id)
        if known is not None:
            return known
        record = await self._tables.subscriptions.get(subscription_id.hex)
        return None if record is None else CompiledSubscription.of(record.value)

    async def _catch_up(self) -> None:
        while True:
            record = await self._late.get()
            start, end = record.after_sequence + 1, self._newest[record.bus]
            while start <= end and record.subscription_id in self._subscriptions:
                try:
                    start = await self._offer_page(record, start, end)
                except BusUnavailable:
                    await asyncio.sleep(_LOST_BUS_WAIT_S)

    async def _offer_page(self, record: SubscriptionRecord, start: int, end: int) -> int:
        """Deliver events that came after a subscription was made, but were matched before we heard of it; gives where
        to go on."""
        query = {"seq": start, "next_by_subj": names.bus_events(record.bus), "batch": _CATCH_UP_PAGE}
        messages, _ = await self._connection.read_many("EVENTS", query)
        for message in messages:
            if message.sequence <= end:
                await self._offer(record.subscription_id, message.data, message.sequence)
        return messages[-1].sequence + 1 if messages else end + 1

    async def _offer(self, subscription_id: UUID, data: bytes, sequence: int) -> None:
        subscription = self._subscriptions.get(subscription_id)
        with contextlib.suppress(DecodeError):
            event = CloudEvent.of_stored(data)
            if subscription is not None and subscription.filter.matches(event):
                await self._start(subscription, event, sequence)

    # --- events -----------------------------------------------------------------------------------------------------

    def _matcher(self, bus: str) -> Intake:
        async def on_event(taken: Taken) -> None:
            # No waiting until the matching is done: a subscription that we hear of later then knows what it missed.
            self._newest[bus] = max(self._newest[bus], taken.sequence)
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
            matching = [self._subscriptions[each] for each in self._indexes[bus].matching(event)]
            starts = [
                self._start(subscription, event, taken.sequence)
                for subscription in matching
                if subscription.record.after_sequence < taken.sequence
            ]
            await (starts[0] if len(starts) == 1 else _all(starts))

        return Intake(self._connection, "EVENTS", names.matcher_consumer(bus), on_event)

    async def _start(self, subscription: CompiledSubscription, event: CloudEvent, sequence: int) -> None:
        record = subscription.record
        delivery = Delivery(record.subscription_id, record.bus, sequence, event.source, event.id)
        await self._send(subscription, delivery, event)

    # --- one attempt ------------------------------------------------------------------------------------------------

    async def _send(self, subscription: CompiledSubscription, delivery: Delivery, event: CloudEvent) -> None:
        """Store the bundle of an attempt; if that can never be, a dead letter; if it cannot be now, the wish to."""
        try:
            await self._submit(subscription, delivery, event)
            self._count("sent")
        except _PERMANENT as error:
            await self._give_up(subscription.record, delivery, event, str(error), error.code)
        except (BusUnavailable, StreamMissing):
            raise
        except StreamFull:
            due = after(time.time_ns(), self._full_wait_s)
            waiting = Waiting(delivery, event.encode())
            await wait_until(self._connection, waiting, subscription.record.endpoint_id, due)
            self._count("postponed")
        except Exception as error:
            # Whatever this is, it would be the same the next time: the owner is to see it.
            logger.exception("An unexpected error ended a delivery.", extra={"action": "delivery_broken"})
            await self._give_up(subscription.record, delivery, event, f"an internal error: {error}", "InternalError")

    async def _submit(self, subscription: CompiledSubscription, delivery: Delivery, event: CloudEvent) -> None:
        record = subscription.record
        await self._rights.check(record.owner, record.function_id, record.endpoint_id)
        arguments = subscription.input.render(event)
        await submission.submit(
            self._connection,
            self._keys,
            Submission(
                principal=record.owner,
                endpoint=record.endpoint_id,
                group=DELIVERIES_GROUP,
                calls=[Call(function=record.function_id, args=arguments.args, kwargs=arguments.kwargs)],
                options=TaskOptions(),
                origin=delivery.encode(),
                first_bundle=delivery.bundle_id(record.endpoint_id),
                # Always: the event may have been published before, and its first delivery may be done.
                retry=True,
            ),
        )

    async def _on_due(self, taken: Taken) -> None:
        try:
            waiting = Waiting.decode(taken.data)
            event = CloudEvent.of_stored(waiting.event)
        except DecodeError as error:
            logger.error("A waiting delivery cannot be read and is dropped: %s", error, extra={"action": "dropped"})
            return
        subscription = await self._find(waiting.delivery.subscription)
        if subscription is not None:
            await self._send(subscription, waiting.delivery, event)

    # --- results ----------------------------------------------------------------------------------------------------

    async def _on_result(self, taken: Taken) -> None:
        where = ResultAddress.of_subject(taken.subject)
        try:
            part = decode_part(
                taken.data, subject=taken.subject, key=self._keys.result_key(where.endpoint, where.principal)
            )
            delivery = Delivery.decode(part.origin)
        except (SignatureInvalid, DecodeError) as error:
            logger.warning("A result of a delivery is not believed: %s", error, extra={"action": "result_refused"})
            return
        result = _result(part)
        if result is None:
            return
        self._count("succeeded" if result.state == "succeeded" else "failed")
        if result.state == "succeeded":
            logger.debug("Delivered.", extra={"action": "delivered", "subscription": str(delivery.subscription)})
            return
        subscription = await self._find(delivery.subscription)
        if subscription is None or not _belongs(subscription.record, delivery, where):
            return
        await self._on_failure(subscription.record, delivery, result, taken.stored_ns)

    async def _on_failure(
        self, record: SubscriptionRecord, delivery: Delivery, result: TaskResult, stored_ns: int
    ) -> None:
        failure, code = _failure(record, delivery, result)
        following = delivery.next(failure)
        event = await self._event(delivery.sequence)
        if result.state == "cancelled":
            await self._give_up(record, following, event, "the delivery was cancelled", "Cancelled")
        elif code in _PERMANENT_FAILURES:
            await self._give_up(record, following, event, failure.message, code)
        elif delivery.attempt >= record.retry.max_attempts:
            reason = f"every attempt failed ({delivery.attempt}); the last one: {failure.error}: {failure.message}"
            await self._give_up(record, following, event, reason, "AttemptsExhausted")
        elif event is None:
            await self._give_up(record, following, None, "the bus does not hold the event any more", "EventExpired")
        else:
            due = after(stored_ns, record.retry.delay_s(delivery.attempt))
            await wait_until(self._connection, Waiting(following, event.encode()), record.endpoint_id, due)

    async def _event(self, sequence: int) -> CloudEvent | None:
        messages, _ = await self._connection.read_many("EVENTS", {"seq": sequence})
        if not messages or messages[0].sequence != sequence:
            return None
        return CloudEvent.of_stored(messages[0].data)

    # --- giving up --------------------------------------------------------------------------------------------------

    async def _give_up(
        self, record: SubscriptionRecord, delivery: Delivery, event: CloudEvent | None, reason: str, code: str
    ) -> None:
        letter = DeadLetter(
            dead_letter_id=delivery.delivery_id(record.endpoint_id),
            subscription_id=record.subscription_id,
            subscription_name=record.name,
            owner=record.owner,
            function_id=record.function_id,
            endpoint_id=record.endpoint_id,
            bus=delivery.bus,
            sequence=delivery.sequence,
            source=delivery.source,
            event_id=delivery.event_id,
            event=None if event is None else event.document,
            reason=reason,
            code=code,
            attempts=[Attempt.of(failed) for failed in delivery.failed],
            created_at=time.time(),
        )
        await bury(self._connection, letter)
        self._count("given_up")
        logger.warning(
            "A delivery of subscription %s was given up: %s",
            record.subscription_id,
            reason[:500],
            extra={"action": "delivery_given_up", "subscription": str(record.subscription_id), "code": code},
        )


def _result(part: ResultPart) -> TaskResult | None:
    return next((result for result in part.results if result.index == 0), None)


def _belongs(record: SubscriptionRecord, delivery: Delivery, where: ResultAddress) -> bool:
    """Whether this result can be the delivery's: a pool signs results, but must not speak for other subscriptions."""
    return (where.principal, where.endpoint, where.bundle) == (
        record.owner,
        record.endpoint_id,
        delivery.bundle_id(record.endpoint_id),
    )


def _failure(record: SubscriptionRecord, delivery: Delivery, result: TaskResult) -> tuple[FailedAttempt, str]:
    """The failed attempt, and the code of the failure."""
    try:
        failure = decode_failure(result.value)
        error, message, traceback, code = failure.type_path, failure.message, failure.traceback, failure.code
    except DecodeError as unreadable:
        error, message, traceback, code = "DecodeError", str(unreadable), "", "DecodeError"
    attempt = FailedAttempt(
        attempt=delivery.attempt,
        task_id=delivery.task_id(record.endpoint_id),
        state=result.state,
        error=error,
        message=message,
        traceback=traceback,
        started_at=result.started_at,
        ended_at=result.ended_at,
    )
    return attempt, code


async def _all(starts: list[Coroutine[Any, Any, None]]) -> None:
    """Await all of them, whatever becomes of the others; then raise the first error."""
    for outcome in await asyncio.gather(*starts, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
