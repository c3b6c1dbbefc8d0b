"""One attempt of a delivery: from the event and its subscription to a bundle in the queue of the endpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from uuid import UUID

import msgspec

from headrace.bus.errors import (
    ArgumentNotSerialisable,
    BusUnavailable,
    DeliveryForbidden,
    EndpointNotAllowed,
    EventTooOld,
    InputFailed,
    LoopDetected,
    PayloadTooLarge,
    PoolLimit,
    QueueFull,
    StreamFull,
    StreamMissing,
)
from headrace.bus.eventing.burials import Burials
from headrace.bus.eventing.causes import check_chain
from headrace.bus.eventing.deliveries import Delivery, Waiting, after, wait_until
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.flow.queue import enqueue
from headrace.bus.eventing.replays.models import marked
from headrace.bus.eventing.retries import too_old
from headrace.bus.eventing.rights import Rights
from headrace.bus.eventing.schedules.runs import TickRuns
from headrace.bus.eventing.sinks.queueing import queue
from headrace.bus.eventing.subscriptions import CompiledSubscription, SubscriptionRecord
from headrace.bus.eventing.templates import Arguments
from headrace.bus.keys import KeyRing
from headrace.bus.names import DEFAULT_POOL
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.gathering import Gathering
from headrace.bus.queues.lanes import Lanes
from headrace.bus.queues.pools import Pools
from headrace.bus.store.models import EndpointRecord
from headrace.bus.tasks import submission
from headrace.bus.tasks.backlog import Backlog
from headrace.bus.tasks.bundles import TaskOptions
from headrace.bus.tasks.submission import DELIVERIES_GROUP, Call, Submission

logger = logging.getLogger(__name__)

# Nothing about these changes by trying again.
PERMANENT = (
    InputFailed,
    DeliveryForbidden,
    ArgumentNotSerialisable,
    PayloadTooLarge,
    EndpointNotAllowed,
    EventTooOld,
    LoopDetected,
)


class Sender:
    """Sends attempts, in the name of the subscriptions' owners, as far as their rights go."""

    def __init__(
        self,
        connection: Connection,
        keys: KeyRing,
        lanes: Lanes,
        backlog: Backlog,
        rights: Rights,
        burials: Burials,
        runs: TickRuns,
        *,
        count: Callable[[str], None],
        full_wait_s: float,
        pools: Pools | None,
    ) -> None:
        """`count` is told of what is sent, queued and postponed; `full_wait_s` is how long one waits for a full queue;
        `pools` are where functions run that need packages."""
        self._connection = connection
        self._keys = keys
        self._lanes = lanes
        self._backlog = backlog
        self._rights = rights
        self._burials = burials
        self._runs = runs
        self._count = count
        self._full_wait_s = full_wait_s
        self._pools = pools
        # Deliveries of one page of events are stored with one sync.
        self._tasks = Gathering(connection)

    async def send(self, subscription: CompiledSubscription, delivery: Delivery, event: CloudEvent) -> bool:
        """Store the bundle of an attempt; if that can never be, a dead letter; if it cannot be now, the wish to: then
        it gives False.

        Where the subscription has flow control, or rests, the delivery is queued for whoever looks after that.

        Raises `BusUnavailable` and `StreamMissing`; sending again has one effect.
        """
        try:
            await self.send_now(subscription, delivery, event)
        except (StreamFull, QueueFull):
            due, delivery = after(time.time_ns(), self._full_wait_s), _placed(subscription, delivery, event)
            waiting = Waiting(delivery, event.encode())
            await wait_until(self._connection, waiting, delivery.place(subscription.record.endpoint_id), due)
            self._count("postponed")
            return False
        return True

    async def send_now(self, subscription: CompiledSubscription, delivery: Delivery, event: CloudEvent) -> None:
        """The same for those who wait themselves where there is no room now.

        Raises `QueueFull` and `StreamFull` then, and what `send` raises.
        """
        if await self._runs.cut_short(subscription.record, delivery):
            return
        try:
            delivery = _placed(subscription, delivery, event)
            if not delivery.redriven:  # Who wants it nevertheless takes it from the dead letters.
                check_chain(event, delivery.subscription)
            if subscription.record.target is not None or subscription.record.queued:
                await self._queue(subscription.record, delivery, event)
                return
            await self._submit(subscription, delivery, event)
            self._count("sent")
            await self._runs.cut_short(subscription.record, delivery)
        except PERMANENT as error:
            await self._burials.bury(subscription.record, delivery, event, str(error), error.code)
        except (BusUnavailable, StreamMissing, StreamFull, QueueFull):
            raise
        except Exception as error:
            # Whatever this is, it would be the same the next time: the owner is to see it.
            logger.exception("An unexpected error ended a delivery.", extra={"action": "delivery_broken"})
            await self._burials.bury(
                subscription.record, delivery, event, f"an internal error: {error}", "InternalError"
            )

    async def _queue(self, record: SubscriptionRecord, delivery: Delivery, event: CloudEvent) -> None:
        pause = record.pauses.now
        if pause is not None and pause.events == "drop" and delivery.attempt == 1 and delivery.replay is None:
            await self._runs.end(delivery)
            return
        if record.target is not None:
            # There it rests as well, while the subscription does.
            await queue(self._connection, delivery, marked(event, delivery.replay))
            self._count("sent")
            return
        await enqueue(self._connection, Waiting(delivery, event.encode()), delivery.place(record.endpoint_id))
        self._count("queued")

    async def _submit(self, subscription: CompiledSubscription, delivery: Delivery, event: CloudEvent) -> None:
        place = delivery.place(subscription.record.endpoint_id)
        await self.submit(
            subscription.record,
            place,
            lambda: subscription.input.render(marked(event, delivery.replay)),
            group=DELIVERIES_GROUP,
            bundle=delivery.bundle_id(place),
            origin=delivery,
        )

    async def submit(
        self,
        record: SubscriptionRecord,
        place: UUID,
        render: Callable[[], Arguments],
        *,
        group: UUID,
        bundle: UUID,
        origin: Delivery,
        json_result: bool = False,
    ) -> None:
        """Store a bundle with one call, if the owner may still do that. `render` gives the arguments.

        Raises one of `PERMANENT`, `QueueFull`, `StreamFull`, `StreamMissing` and `BusUnavailable`; submitting the same
        bundle again has one effect.
        """
        left_s = record.retry.left_s(origin.published_at, time.time())
        if left_s is not None and left_s <= 0:
            raise EventTooOld(too_old(record.retry))
        endpoint = await self._rights.check(record.owner, record.function_id, place, record.linked)
        arguments = render()
        await self._backlog.admit(endpoint, record.owner, 1)
        await submission.submit(
            self._connection,
            self._keys,
            self._lanes,
            Submission(
                principal=record.owner,
                endpoint=place,
                pool=await self._pool(record, endpoint),
                group=group,
                calls=[Call(function=record.function_id, args=arguments.args, kwargs=arguments.kwargs)],
                # A result that is announced is read here, where nothing is unpickled.
                options=TaskOptions(
                    queue_timeout_s=left_s, json_result=json_result or record.announce.success is not None
                ),
                origin=origin.encode(),
                first_bundle=bundle,
                # Always: the event may have been published before, and its first delivery may be done.
                retry=True,
            ),
            store=self._tasks,
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


def _placed(subscription: CompiledSubscription, delivery: Delivery, event: CloudEvent) -> Delivery:
    """The delivery with the endpoint that its event names, where it has none and the event has a say."""
    if delivery.endpoint is not None:
        return delivery
    return msgspec.structs.replace(delivery, endpoint=subscription.places.first(event))
