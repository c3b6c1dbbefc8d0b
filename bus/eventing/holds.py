"""Deliveries that wait at an endpoint that is away: for ever, or as long as their subscription says.

To wait costs no attempt and no timer: the attempt's bundle lies in the endpoint's queue. Only where a subscription
limits the wait, and only while an endpoint of it is away, its queue is looked through. What has waited too long ends
there, as if its endpoint had said so: the result says why, and whoever reads it decides what follows. So any number of
dispatchers may look, and each delivery ends once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from headrace.bus.errors import BusError, BusUnavailable, DecodeError, EndpointOffline, EventTooOld, TaskError
from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.flow.queue import group_of
from headrace.bus.eventing.retries import too_old
from headrace.bus.eventing.subscriptions import CompiledSubscription
from headrace.bus.keys import KeyRing
from headrace.bus.names import token
from headrace.bus.nats import pages
from headrace.bus.nats.connection import Connection
from headrace.bus.queues.presence import Presence
from headrace.bus.tasks.cancelling import cancel
from headrace.bus.tasks.endings import end_unstarted
from headrace.bus.tasks.submission import DELIVERIES_GROUP
from headrace.bus.tasks.task_views import TaskView, queued_tasks, with_mark

logger = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How often is looked who is away."""

_PAGE = 200


@dataclass(slots=True)
class _Queue:
    """What waits at one endpoint that is away, for one owner. Times are unix seconds."""

    away_since: float
    look_at: float = 0.0
    """Before this nothing can have waited too long."""
    subscriptions: dict[UUID, CompiledSubscription] = field(default_factory=dict)


def limits_the_wait(subscription: CompiledSubscription) -> bool:
    """Whether deliveries of a subscription may wait for an endpoint for some time only."""
    return subscription.record.offline.hold_s is not None or subscription.record.retry.max_age_s is not None


class Holds:
    """Ends what has waited too long at endpoints that are away. `run` until cancelled."""

    def __init__(
        self,
        connection: Connection,
        keys: KeyRing,
        presence: Presence,
        subscriptions: Callable[[], Iterable[CompiledSubscription]],
        *,
        look_s: float = LOOK_S,
    ) -> None:
        """`subscriptions` gives those that there are; `look_s` is how often is looked."""
        self._connection = connection
        self._keys = keys
        self._presence = presence
        self._subscriptions = subscriptions
        self._look_s = look_s
        self._queues: dict[tuple[UUID, str], _Queue] = {}

    async def run(self) -> None:
        """Look again and again. A lost bus is waited for."""
        while True:
            await asyncio.sleep(self._look_s)
            try:
                await self._look()
            except BusUnavailable:
                continue
            except BusError as error:
                logger.warning(
                    "Deliveries that wait for an endpoint cannot be ended now (%s); looking again.",
                    error,
                    extra={"action": "holds_wait"},
                )

    async def _look(self) -> None:
        wanted = self._limited()
        if not wanted:
            self._queues.clear()
            return
        online = await self._presence.online()
        now = time.time()
        for place in list(self._queues):
            if place not in wanted or place[0] in online:
                del self._queues[place]
        for place, subscriptions in wanted.items():
            if place[0] in online:
                continue
            queue = self._queues.setdefault(place, _Queue(now))
            if subscriptions != queue.subscriptions:
                queue.subscriptions, queue.look_at = subscriptions, 0.0
            if queue.look_at <= now:
                queue.look_at = await self._look_through(*place, queue, now)

    def _limited(self) -> dict[tuple[UUID, str], dict[UUID, CompiledSubscription]]:
        """The subscriptions that limit the wait, by endpoint and owner."""
        found: dict[tuple[UUID, str], dict[UUID, CompiledSubscription]] = defaultdict(dict)
        for each in filter(limits_the_wait, self._subscriptions()):
            for endpoint in each.places.all():
                found[endpoint, each.record.owner][each.record.subscription_id] = each
        return found

    async def _look_through(self, endpoint: UUID, owner: str, queue: _Queue, now: float) -> float:
        """End what has waited too long; gives when the next may have."""
        groups = {group_of(each.record.subscription_id) for each in queue.subscriptions.values() if each.record.kept}
        # What is stored later than now waits at least as long as the shortest limit.
        next_at = now + min(map(_shortest_s, queue.subscriptions.values()))
        for group in (DELIVERIES_GROUP, *groups):
            subject = f"task.{endpoint.hex}.*.{token(owner)}.{group.hex}.*"
            async for page in pages.messages(self._connection, "TASKS", subject, start=1, batch=_PAGE):
                for view in queued_tasks(self._keys, page).values():
                    limit = _limit(view, queue)
                    if limit is None:
                        continue
                    due, error = limit
                    if due <= now:
                        await self._end(view, error)
                    else:
                        next_at = min(next_at, due)
        return next_at

    async def _end(self, view: TaskView, error: TaskError) -> None:
        # What has begun, and whose endpoint was lost then, is waited for: a pool that comes back runs it again.
        if (await with_mark(self._connection, view)).marked_at:
            return
        # First the cancellation: from here on no pool begins it, however soon it comes back. Looked at again, because
        # one may have come back in between; what it runs then goes on.
        await cancel(self._connection, self._keys, view.address, [view.index])
        if (await with_mark(self._connection, view)).marked_at:
            return
        await end_unstarted(self._connection, self._keys, [(view, error)], "expired", dated=False)
        logger.info(
            "A delivery has waited long enough at endpoint %s, which is away.",
            view.address.endpoint,
            extra={"action": "delivery_waited", "endpoint": str(view.address.endpoint), "code": error.code},
        )


def _limit(view: TaskView, queue: _Queue) -> tuple[float, TaskError] | None:
    """When a queued delivery has waited too long, and what it ends with; None is never."""
    try:
        delivery = Delivery.decode(view.origin)
    except DecodeError:
        return None
    subscription = queue.subscriptions.get(delivery.subscription)
    if subscription is None:
        return None
    record = subscription.record
    limits: list[tuple[float, TaskError]] = []
    if record.offline.hold_s is not None:
        hold_s = record.offline.hold_s
        text = f"endpoint {view.address.endpoint} was away for {hold_s:g} s and more"
        limits.append((max(view.stored_at, queue.away_since) + hold_s, EndpointOffline(text)))
    if record.retry.max_age_s is not None and delivery.published_at:
        limits.append((delivery.published_at + record.retry.max_age_s, EventTooOld(too_old(record.retry))))
    return min(limits, key=lambda each: each[0], default=None)


def _shortest_s(subscription: CompiledSubscription) -> float:
    record = subscription.record
    return min(limit for limit in (record.offline.hold_s, record.retry.max_age_s) if limit is not None)
