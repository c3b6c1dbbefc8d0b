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

from headrace.bus import names
from headrace.bus.data.failures import decode_failure
from headrace.bus.errors import (
    ArgumentNotSerialisable,
    BusUnavailable,
    DecodeError,
    DeliveryForbidden,
    FunctionUnusable,
    InputFailed,
    PayloadTooLarge,
    PoolLimit,
    QueueFull,
    SignatureInvalid,
    StreamFull,
    StreamMissing,
)
from headrace.bus.eventing.dead_letters import Attempt, DeadLetter, bury
from headrace.bus.eventing.deliveries import Delivery, FailedAttempt, Waiting, after, wait_until
from headrace.bus.eventing.events import DEFAULT_BUS, CloudEvent
from headrace.bus.eventing.rights import Rights
from headrace.bus.eventing.roster import Roster
from headrace.bus.eventing.subscriptions import CompiledSubscription, SubscriptionRecord, last_sequence
from headrace.bus.keys import KeyRing
from headrace.bus.names import DEFAULT_POOL, ResultAddress
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.intake import ACK_WAIT_S, Intake
from headrace.bus.nats.pull import Delivery as Taken
from headrace.bus.queues.lanes import Lanes
from headrace.bus.queues.pools import Pools
from headrace.bus.store.models import EndpointRecord
from headrace.bus.store.streams import ensure_consumer
from headrace.bus.store.tables import Tables
from headrace.bus.tasks import submission
from headrace.bus.tasks.backlog import MOST_BUNDLES_PER_PRINCIPAL, Backlog
from headrace.bus.tasks.bundles import ResultPart, TaskOptions, TaskResult, decode_part
from headrace.bus.tasks.submission import DELIVERIES_GROUP, Call, Submission

logger = logging.getLogger(__name__)

RESULTS_CONSUMER = "deliveries-results"
DUE_CONSUMER = "deliveries-due"

OUTCOMES = ("matched", "sent", "succeeded", "failed", "postponed", "given_up")
"""What is counted: events that were matched; attempts that were sent, and how they ended; deliveries that wait for room
in a full queue, and those that became dead letters."""

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
        most_bundles_per_principal: int | None = MOST_BUNDLES_PER_PRINCIPAL,
        pools: Pools | None = None,
    ) -> None:
        """`count` is told of each of `OUTCOMES`; `full_wait_s` is how long a delivery waits for a full queue; `pools`
        are where functions run that need packages."""
        self._connection = connection
        self._keys = keys
        self._tables = tables
        self._lanes = Lanes(connection, keys, tables.lanes)
        self._backlog = Backlog(self._lanes, per_principal=most_bundles_per_principal)
        self._buses = tuple(buses)
        self._count = count
        self._full_wait_s = full_wait_s
        self._pools = pools
        self._rights = Rights(tables)
        self._roster = Roster(tables.subscriptions, self._buses, newest=0)

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
        await self._ensure_consumers()
        newest = await last_sequence(self._connection)
        self._roster = Roster(self._tables.subscriptions, self._buses, newest=newest)
        async with contextlib.AsyncExitStack() as stack:
            # Before the first event is taken: an event must meet every subscription that was there when it came.
            for watched in (self._rights, self._roster):
                await watched.start()
                stack.push_async_callback(watched.stop)
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

    # --- events -----------------------------------------------------------------------------------------------------

    def _matcher(self, bus: str) -> Intake:
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
            matching = self._roster.matching(bus, event, taken.sequence)
            starts = [self._start(subscription, event, taken.sequence) for subscription in matching]
            await (starts[0] if len(starts) == 1 else _all(starts))

        return Intake(self._connection, "EVENTS", names.matcher_consumer(bus), on_event)

    async def _start(self, subscription: CompiledSubscription, event: CloudEvent, sequence: int) -> None:
        record = subscription.record
        delivery = Delivery(record.subscription_id, record.bus, sequence, event.source, event.id)
        await self._send(subscription, delivery, event)

    async def _catch_up(self) -> None:
        """Deliver events that came after a subscription was made, but were matched before we heard of it."""
        while True:
            subscription, missed = await self._roster.late()
            while missed and self._roster.get(subscription.record.subscription_id):
                try:
                    missed = await self._offer(subscription, missed)
                except BusUnavailable:
                    await asyncio.sleep(_LOST_BUS_WAIT_S)

    async def _offer(self, subscription: CompiledSubscription, sequences: range) -> range:
        """Deliver the first of these events; gives the sequences that are left."""
        subject = names.bus_events(subscription.record.bus)
        query = {"seq": sequences.start, "next_by_subj": subject, "batch": _CATCH_UP_PAGE}
        messages, _ = await self._connection.read_many("EVENTS", query)
        for message in messages:
            with contextlib.suppress(DecodeError):
                event = CloudEvent.of_stored(message.data)
                if message.sequence in sequences and subscription.filter.matches(event):
                    await self._start(subscription, event, message.sequence)
        return range(messages[-1].sequence + 1, sequences.stop) if messages else range(0)

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
        except (StreamFull, QueueFull):
            due = after(time.time_ns(), self._full_wait_s)
            waiting = Waiting(delivery, event.encode())
            await wait_until(self._connection, waiting, delivery.place(subscription.record.endpoint_id), due)
            self._count("postponed")
        except Exception as error:
            # Whatever this is, it would be the same the next time: the owner is to see it.
            logger.exception("An unexpected error ended a delivery.", extra={"action": "delivery_broken"})
            await self._give_up(subscription.record, delivery, event, f"an internal error: {error}", "InternalError")

    async def _submit(self, subscription: CompiledSubscription, delivery: Delivery, event: CloudEvent) -> None:
        record = subscription.record
        place = delivery.place(record.endpoint_id)
        endpoint = await self._rights.check(record.owner, record.function_id, place, record.linked)
        arguments = subscription.input.render(event)
        await self._backlog.admit(endpoint, record.owner, 1)
        await submission.submit(
            self._connection,
            self._keys,
            self._lanes,
            Submission(
                principal=record.owner,
                endpoint=place,
                pool=await self._pool(record, endpoint),
                group=DELIVERIES_GROUP,
                calls=[Call(function=record.function_id, args=arguments.args, kwargs=arguments.kwargs)],
                options=TaskOptions(),
                origin=delivery.encode(),
                first_bundle=delivery.bundle_id(place),
                # Always: the event may have been published before, and its first delivery may be done.
                retry=True,
            ),
        )

    async def _pool(self, record: SubscriptionRecord, endpoint: EndpointRecord) -> str:
        """The pool that has what the function needs: always the same one, so that nothing is queued twice."""
        needs = await self._rights.needs(record.function_id)
        if (not needs and not endpoint.per_user) or self._pools is None:
            return DEFAULT_POOL
        try:
            used = await self._pools.use(
                endpoint.endpoint_id, record.owner, {}, environment=needs.text, per_user=endpoint.per_user
            )
            return used.pool
        except PoolLimit as error:
            raise DeliveryForbidden(str(error)) from error

    async def _on_due(self, taken: Taken) -> None:
        try:
            waiting = Waiting.decode(taken.data)
            event = CloudEvent.of_stored(waiting.event)
        except DecodeError as error:
            logger.error("A waiting delivery cannot be read and is dropped: %s", error, extra={"action": "dropped"})
            return
        subscription = await self._roster.find(waiting.delivery.subscription)
        if subscription is not None:
            await self._send(subscription, waiting.delivery, event)

    # --- results ----------------------------------------------------------------------------------------------------

    async def _on_result(self, taken: Taken) -> None:
        try:
            where = ResultAddress.of_subject(taken.subject)
            key = self._keys.result_keys(where.endpoint, where.principal)
            part = decode_part(taken.data, subject=taken.subject, key=key)
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
        subscription = await self._roster.find(delivery.subscription)
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
        elif delivery.counted >= record.retry.max_attempts:
            reason = f"every attempt failed ({delivery.attempt}); the last one: {failure.error}: {failure.message}"
            await self._give_up(record, following, event, reason, "AttemptsExhausted")
        elif event is None:
            await self._give_up(record, following, None, "the bus does not hold the event any more", "EventExpired")
        else:
            due = after(stored_ns, record.retry.delay_s(delivery.counted))
            waiting = Waiting(following, event.encode())
            await wait_until(self._connection, waiting, delivery.place(record.endpoint_id), due)

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
            dead_letter_id=delivery.delivery_id(delivery.place(record.endpoint_id)),
            subscription_id=record.subscription_id,
            subscription_name=record.name,
            owner=record.owner,
            function_id=record.function_id,
            endpoint_id=delivery.place(record.endpoint_id),
            bus=delivery.bus,
            sequence=delivery.sequence,
            source=delivery.source,
            event_id=delivery.event_id,
            event=None if event is None else event.document,
            reason=reason,
            code=code,
            attempts=[Attempt.of(failed) for failed in delivery.failed],
            created_at=time.time(),
            redriven=delivery.redriven,
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
    place = delivery.place(record.endpoint_id)
    return (where.principal, where.endpoint, where.bundle) == (record.owner, place, delivery.bundle_id(place))


def _failure(record: SubscriptionRecord, delivery: Delivery, result: TaskResult) -> tuple[FailedAttempt, str]:
    """The failed attempt, and the code of the failure."""
    try:
        failure = decode_failure(result.value)
        error, message, traceback, code = failure.type_path, failure.message, failure.traceback, failure.code
    except DecodeError as unreadable:
        error, message, traceback, code = "DecodeError", str(unreadable), "", "DecodeError"
    attempt = FailedAttempt(
        attempt=delivery.attempt,
        task_id=delivery.task_id(delivery.place(record.endpoint_id)),
        state=result.state,
        error=error,
        message=message,
        traceback=traceback,
        started_at=result.started_at,
        ended_at=result.ended_at,
    )
    return attempt.shortened(), code


async def _all(starts: list[Coroutine[Any, Any, None]]) -> None:
    """Await all of them, whatever becomes of the others; then raise the first error."""
    for outcome in await asyncio.gather(*starts, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
