"""One sink at work: deliveries taken from its queue, sent, and recorded.

    queue      `delivery.sink.<subscription>.<bundle>` in DELIVERIES, with a consumer of its own for each sink, so that
               what one sink keeps waiting stands in nobody's way. The consumer gives out so much at a time as may be
               under way, to all dispatchers together.
    send       not if the attempt has a record: it was sent by somebody who died before the ack.
    record     the result of the attempt, under its bundle's id, like that of a task; the first one counts. What follows
               from it (the next attempt, a dead letter) is `headrace.bus.eventing.outcomes`'s, as for functions.

A crash between sending and recording sends this attempt once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from uuid import UUID

from headrace.bus import names
from headrace.bus.data.encodings import JSON
from headrace.bus.data.failures import Failure, encode_failure
from headrace.bus.errors import AlreadyStored, BusError, BusUnavailable, DecodeError, EventTooOld, SinkProblem
from headrace.bus.eventing.deliveries import Delivery, Waiting
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.retries import too_old
from headrace.bus.eventing.schedules.runs import TickRuns
from headrace.bus.eventing.sinks.client import SinkClient
from headrace.bus.eventing.sinks.models import Secrets, Sink
from headrace.bus.eventing.sinks.pace import Pace
from headrace.bus.eventing.sinks.requests import request_of
from headrace.bus.eventing.sinks.verdicts import SinkVerdict, of_answer, of_problem
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.keys import KeyRing
from headrace.bus.names import SINKS
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.intake import ACK_WAIT_S, Intake
from headrace.bus.nats.pull import Delivery as Taken
from headrace.bus.store.streams import ensure_consumer
from headrace.bus.tasks.bundles import ResultPart, TaskResult, encode_part
from headrace.bus.tasks.submission import DELIVERIES_GROUP, service_runtime

logger = logging.getLogger(__name__)

_UNUSED_S: Final = 3600.0
"""A consumer that nobody has asked for so long goes; what waits stays, and is found by the next one."""
_STORE_PAUSE_S: Final = 1.0


@dataclass(eq=False, slots=True)
class _Item:
    delivery: Delivery
    event: CloudEvent
    stored_ns: int
    done: asyncio.Future[None]


class Pipeline:
    """Sends what waits for one sink. `run` until cancelled."""

    def __init__(
        self,
        connection: Connection,
        keys: KeyRing,
        record: SubscriptionRecord,
        sink: Sink,
        secrets: Secrets | None,
        client: SinkClient,
        runs: TickRuns,
        *,
        on_gone: Callable[[], Awaitable[None]],
        worker: str = "",
    ) -> None:
        """`secrets` is None when they cannot be read any more; `on_gone` is awaited when the sink says that it is."""
        self._connection = connection
        self._keys = keys
        self._record = record
        self._sink = sink
        self._secrets = secrets
        self._client = client
        self._runs = runs
        self._on_gone = on_gone
        self._worker = worker
        self._pace = Pace(sink.concurrency, sink.rate_per_minute)
        self._pending: deque[_Item] = deque()
        self._in_hand: dict[UUID, asyncio.Future[None]] = {}
        """Bundles of attempts that are being dealt with."""
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Send until cancelled. Raises `BusError`."""
        consumer = names.sink_consumer(self._record.subscription_id)
        most = self._sink.concurrency * self._sink.most_events
        await ensure_consumer(
            self._connection,
            "DELIVERIES",
            consumer,
            filter_subjects=(names.sink_deliveries(self._record.subscription_id),),
            ack_wait_s=ACK_WAIT_S,
            max_ack_pending=most,
            options={"inactive_threshold": int(_UNUSED_S * 1e9)},
        )
        intake = Intake(self._connection, "DELIVERIES", consumer, self._on_delivery, most=most)
        async with asyncio.TaskGroup() as group:
            group.create_task(intake.run(), name=f"{consumer}: deliveries")
            for number in range(self._sink.concurrency):
                group.create_task(self._send_all(), name=f"{consumer}: sender {number}")

    async def _on_delivery(self, taken: Taken) -> None:
        try:
            waiting = Waiting.decode(taken.data)
            event = CloudEvent.of_stored(waiting.event)
        except DecodeError as error:
            logger.error("A delivery to a sink cannot be read and is dropped: %s", error, extra={"action": "dropped"})
            return
        bundle = waiting.delivery.bundle_id(SINKS)
        while (twin := self._in_hand.get(bundle)) is not None:
            # Queued twice, by dispatchers that did not know of each other: once the first is sent, there is a record.
            await asyncio.wait({twin})
        mine = self._in_hand[bundle] = asyncio.get_running_loop().create_future()
        try:
            await self._deal_with(waiting.delivery, event, taken)
        finally:
            del self._in_hand[bundle]
            mine.set_result(None)

    async def _deal_with(self, delivery: Delivery, event: CloudEvent, taken: Taken) -> None:
        if not await self._runs.goes_on(delivery) or await self._is_recorded(delivery):
            return
        if delivery.attempt == 1 and any(first < taken.sequence <= last for first, last in self._record.pauses.dropped):
            await self._runs.end(delivery)
            return
        item = _Item(delivery, event, taken.stored_ns, asyncio.get_running_loop().create_future())
        self._pending.append(item)
        self._news.set()
        try:
            await item.done
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):
                self._pending.remove(item)
            raise

    async def _send_all(self) -> None:
        while True:
            items = [await self._next()]
            try:
                async with self._pace.slot():
                    # What came while this one waited for its turn goes along.
                    while self._pending and len(items) < self._sink.most_events:
                        items.append(self._pending.popleft())
                    await self._send(items)
            except Exception as error:
                for item in items:
                    if not item.done.done():
                        item.done.set_exception(error)
            else:
                for item in items:
                    if not item.done.done():
                        item.done.set_result(None)

    async def _next(self) -> _Item:
        while not self._pending:
            self._news.clear()
            await self._news.wait()
        return self._pending.popleft()

    async def _send(self, items: Sequence[_Item]) -> None:
        begun = time.time()
        verdict = await self._verdict(items)
        self._pace.told(verdict)
        if verdict.code == "SinkRefused" and len(items) > 1:
            # One event may be what is wrong: the others are not to die with it.
            half = len(items) // 2
            for some in (items[:half], items[half:]):
                await self._pace.turn()
                await self._send(some)
            return
        ended = time.time()
        await asyncio.gather(*(self._store(item, verdict, begun, ended) for item in items))
        if verdict.status == HTTPStatus.GONE:
            await self._on_gone()

    async def _verdict(self, items: Sequence[_Item]) -> SinkVerdict:
        left = [self._record.retry.left_s(item.delivery.published_at, time.time()) for item in items]
        if all(each is not None and each <= 0 for each in left):
            return SinkVerdict(code=EventTooOld.code, message=too_old(self._record.retry))
        if self._sink.gone_at:
            return SinkVerdict(code="SinkGone", message="the sink has said before that it is gone for good (HTTP 410)")
        if self._secrets is None:
            message = "the secrets of the sink were concealed under keys that are forgotten; make the subscription anew"
            return SinkVerdict(code="SinkSecretLost", message=message)
        try:
            headers, body = request_of(
                self._sink,
                self._secrets,
                [item.event for item in items],
                deliveries=[item.delivery.delivery_id(SINKS) for item in items],
            )
            return of_answer(await self._client.send("POST", headers, body), now=time.time())
        except SinkProblem as problem:
            return of_problem(problem)
        except Exception as error:
            # Whatever this is, it would be the same the next time: the owner is to see it.
            logger.exception("An unexpected error ended a delivery.", extra={"action": "delivery_broken"})
            return SinkVerdict(code="InternalError", message=f"an internal error: {type(error).__name__}")

    async def _is_recorded(self, delivery: Delivery) -> bool:
        return await self._connection.read_last("RESULTS", self._address(delivery).subject) is not None

    async def _store(self, item: _Item, verdict: SinkVerdict, begun: float, ended: float) -> None:
        """Record the end of an attempt, sooner or later: what was sent is not to be sent again for want of a record."""
        where = self._address(item.delivery)
        part = ResultPart(
            results=[_result(verdict, begun, ended, self._worker)],
            total=1,
            runtime=service_runtime(),
            origin=item.delivery.encode(),
            stored_at=item.stored_ns / 1e9,
        )
        key = self._keys.result_key(where.endpoint, where.principal)
        message = encode_part(part, subject=where.subject, key=key)
        while True:
            try:
                with contextlib.suppress(AlreadyStored):  # by somebody who had the same attempt: that one counts
                    await self._connection.store(where.subject, message)
                return
            except BusUnavailable:
                await self._connection.wait_connected(None)
            except BusError as error:
                logger.warning(
                    "What became of a delivery cannot be stored (%s); trying again.",
                    error,
                    extra={"action": "sink_record_postponed", "subscription": str(self._record.subscription_id)},
                )
            await asyncio.sleep(_STORE_PAUSE_S)

    def _address(self, delivery: Delivery) -> names.ResultAddress:
        return names.ResultAddress(
            endpoint=SINKS,
            principal=self._record.owner,
            group=DELIVERIES_GROUP,
            bundle=delivery.bundle_id(SINKS),
            part=0,
        )


def _result(verdict: SinkVerdict, begun: float, ended: float, worker: str) -> TaskResult:
    if verdict.succeeded:
        return TaskResult(0, "succeeded", JSON, b'{"status":%d}' % verdict.status, begun, begun, ended, 1, worker)
    named = f"HTTP {verdict.status}" if verdict.status else verdict.code
    failure = Failure(
        verdict.code, "", named, verdict.message, status=verdict.status, retry_after_s=verdict.retry_after_s
    )
    encoding, value = encode_failure(failure)
    return TaskResult(0, "failed", encoding, value, begun, begun, ended, 1, worker)
