"""What becomes of an attempt: its result ends the delivery, makes the next attempt, or the dead letter."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from uuid import UUID

from headrace.bus.data.failures import decode_failure
from headrace.bus.errors import DecodeError, SignatureInvalid, StreamMissing
from headrace.bus.eventing.announcements import Announcer
from headrace.bus.eventing.burials import Burials
from headrace.bus.eventing.deliveries import Delivery, FailedAttempt, Waiting, after, wait_until
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.retries import Failed, verdict
from headrace.bus.eventing.schedules.runs import TickRuns, tick_of
from headrace.bus.eventing.subscriptions import CompiledSubscription
from headrace.bus.keys import KeyRing
from headrace.bus.names import ResultAddress, event_stream
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.pull import Delivery as Taken
from headrace.bus.tasks.bundles import ResultPart, TaskResult, decode_part

logger = logging.getLogger(__name__)


class Outcomes:
    """Reads the results of deliveries."""

    def __init__(
        self,
        connection: Connection,
        keys: KeyRing,
        find: Callable[[UUID], Awaitable[CompiledSubscription | None]],
        burials: Burials,
        announcer: Announcer,
        runs: TickRuns,
        *,
        count: Callable[[str], None],
    ) -> None:
        """`find` gives a subscription by its id; `count` is told of each result ("succeeded", "failed")."""
        self._connection = connection
        self._keys = keys
        self._find = find
        self._burials = burials
        self._announcer = announcer
        self._runs = runs
        self._count = count

    async def on_result(self, taken: Taken) -> None:
        """Take one part of a result: it ends the delivery, or another attempt follows.

        Raises `StreamFull` and `BusUnavailable`; taking it again has one effect.
        """
        try:
            where = ResultAddress.of_subject(taken.subject)
            key = self._keys.result_keys(where.endpoint, where.principal)
            part = decode_part(taken.data, subject=taken.subject, key=key)
            delivery = Delivery.decode(part.origin)
        except (SignatureInvalid, DecodeError) as error:
            logger.warning("A result of a delivery is not believed: %s", error, extra={"action": "result_refused"})
            return
        result = first_result(part)
        if result is None:
            return
        self._count("succeeded" if result.state == "succeeded" else "failed")
        if result.state == "succeeded":
            logger.debug("Delivered.", extra={"action": "delivered", "subscription": str(delivery.subscription)})
            await self._on_success(delivery, result, where, taken.stored_ns)
            return
        subscription = await self._find(delivery.subscription)
        if subscription is None or not _belongs(subscription, delivery, where):
            return
        if await self._runs.goes_on(delivery):
            await self._on_failure(subscription, delivery, result, where.endpoint, taken.stored_ns)

    async def _on_success(self, delivery: Delivery, result: TaskResult, where: ResultAddress, stored_ns: int) -> None:
        subscription = await self._find(delivery.subscription)
        if subscription is None:
            return
        record, is_tick = subscription.record, tick_of(delivery.event_id) is not None
        if (record.announce.success is None and not is_tick) or not _belongs(subscription, delivery, where):
            return
        if record.announce.success is not None:
            event = await self._event(delivery.bus, delivery.sequence)
            await self._announcer.success(
                record,
                delivery,
                event,
                result,
                place=where.endpoint,
                task_id=delivery.task_id(where.endpoint),
                stored_at=stored_ns / 1e9,
            )
        if is_tick:
            # Tell who waits for the end of what a tick has started.
            await self._runs.end(delivery)

    async def _on_failure(
        self,
        subscription: CompiledSubscription,
        delivery: Delivery,
        result: TaskResult,
        endpoint: UUID,
        stored_ns: int,
    ) -> None:
        record = subscription.record
        failure, code, retry_after_s = failed_attempt(result, delivery.attempt, delivery.task_id(endpoint))
        judged = verdict(
            record.retry,
            Failed(
                attempt=delivery.attempt,
                counted=delivery.counted,
                state=result.state,
                code=code,
                error=failure.error,
                message=failure.message,
                published_at=delivery.published_at,
                ended_at=stored_ns / 1e9,
                lot=delivery.lot,
                retry_after_s=retry_after_s,
            ),
        )
        following, event = delivery.next(failure), await self._event(delivery.bus, delivery.sequence)
        elsewhere = subscription.places.after(endpoint) if judged.elsewhere else None
        if elsewhere is not None:
            following = delivery.elsewhere(failure, elsewhere)
        elif judged.code:
            await self._burials.bury(record, following, event, judged.reason, judged.code)
            return
        if event is None:
            await self._burials.bury(
                record, following, None, "the bus does not hold the event any more", "EventExpired"
            )
            return
        due = after(stored_ns, judged.delay_s)
        await wait_until(self._connection, Waiting(following, event.encode()), following.place(record.endpoint_id), due)

    async def _event(self, bus: str, sequence: int) -> CloudEvent | None:
        try:
            messages, _ = await self._connection.read_many(event_stream(bus), {"seq": sequence})
        except StreamMissing:
            return None  # the bus was deleted
        if not messages or messages[0].sequence != sequence:
            return None
        return CloudEvent.of_stored(messages[0].data)


def first_result(part: ResultPart) -> TaskResult | None:
    """The result of a bundle's first task, if the part has it."""
    return next((result for result in part.results if result.index == 0), None)


def _belongs(subscription: CompiledSubscription, delivery: Delivery, where: ResultAddress) -> bool:
    """Whether this result can be the delivery's: a pool signs results, but must not speak for other subscriptions."""
    record = subscription.record
    # Those that were sent before the subscription was changed still end where they are.
    known = where.endpoint in subscription.places.all() or where.endpoint in record.former_endpoints
    if not known and not delivery.redriven:
        return False
    if delivery.endpoint is not None and delivery.endpoint != where.endpoint:
        return False
    return (where.principal, where.bundle) == (record.owner, delivery.bundle_id(where.endpoint))


def failed_attempt(result: TaskResult, number: int, task_id: UUID) -> tuple[FailedAttempt, str, float]:
    """The failed attempt of this number, the code of the failure, and how long a sink asked to wait."""
    status, retry_after_s = 0, 0.0
    try:
        failure = decode_failure(result.value)
        status, retry_after_s = failure.status, failure.retry_after_s
        error, message, traceback, code = failure.type_path, failure.message, failure.traceback, failure.code
    except DecodeError as unreadable:
        error, message, traceback, code = "DecodeError", str(unreadable), "", "DecodeError"
    attempt = FailedAttempt(
        attempt=number,
        task_id=task_id,
        state=result.state,
        error=error,
        message=message,
        traceback=traceback,
        started_at=result.started_at,
        ended_at=result.ended_at,
        status=status,
    )
    return attempt.shortened(), code, retry_after_s
