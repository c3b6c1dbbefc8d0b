"""Which subscriptions need a holder, and the leases under which holders work: one holder of each in the world."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from headrace.bus.errors import BusUnavailable
from headrace.bus.eventing.flow.holder import Holder, Tools
from headrace.bus.eventing.flow.limits import Limits
from headrace.bus.eventing.flow.policy import Rate
from headrace.bus.eventing.leases import Leases
from headrace.bus.eventing.subscriptions import CompiledSubscription, SubscriptionRecord
from headrace.bus.names import token

logger = logging.getLogger(__name__)

_PAUSE_S: Final = 0.5


def lease_key(record: SubscriptionRecord) -> str:
    """The lease of whoever serves a subscription, and the others of its share."""
    if record.flow is not None and record.flow.share:
        return f"share.{token(record.owner)}.{token(record.flow.share)}"
    return f"flow.{record.subscription_id.hex}"


@dataclass(slots=True)
class _Share:
    """Subscriptions under one lease."""

    members: dict[UUID, CompiledSubscription] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Keeper:
    """Holds the leases that are free. `changed` tells it of subscriptions; `run` works until cancelled, beside the
    leases."""

    def __init__(self, tools: Tools, leases: Leases) -> None:
        self._tools = tools
        self._leases = leases
        self._shares: dict[str, _Share] = {}
        self._places: dict[UUID, str] = {}
        self._new: asyncio.Queue[str] = asyncio.Queue()

    def changed(self, subscription_id: UUID, subscription: CompiledSubscription | None) -> None:
        """A subscription is there, has changed, or is gone (None)."""
        key = lease_key(subscription.record) if subscription is not None and subscription.record.kept else None
        before = self._places.pop(subscription_id, None)
        if before is not None and before in self._shares:
            self._shares[before].members.pop(subscription_id, None)
            self._shares[before].changed.set()
        if key is None or subscription is None:
            return
        self._places[subscription_id] = key
        share = self._shares.get(key)
        if share is None:
            share = self._shares[key] = _Share()
            self._new.put_nowait(key)
        share.members[subscription_id] = subscription
        share.changed.set()

    async def run(self) -> None:
        """Serve what can be served here. Raises `BusUnavailable`."""
        async with asyncio.TaskGroup() as group:
            while True:
                key = await self._new.get()
                group.create_task(self._keep(key, self._shares[key]), name=f"holder of {key}")

    async def _keep(self, key: str, share: _Share) -> None:
        while share.members:
            try:
                await self._leases.keep(key, lambda _lease: self._serve(share))
            except Exception as error:
                lost = isinstance(error, BusUnavailable) or (
                    isinstance(error, ExceptionGroup) and error.split(BusUnavailable)[1] is None
                )
                logger.warning(
                    "Serving the queue %s ended (%s); it goes on from what is stored.",
                    key,
                    error,
                    exc_info=None if lost else error,
                    extra={"action": "flow_restarts"},
                )
                await asyncio.sleep(_PAUSE_S)
        del self._shares[key]

    async def _serve(self, share: _Share) -> None:
        """Serve all of a share until none is left; each change begins it anew, from what is stored."""
        while share.members:
            share.changed.clear()
            limits = _limits([each.record for each in share.members.values()])
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(Holder(self._tools, each, limits).run(), name=f"queue of {id_}")
                    for id_, each in share.members.items()
                ]
                await share.changed.wait()
                for task in tasks:
                    task.cancel()


def _limits(records: list[SubscriptionRecord]) -> Limits:
    """The tightest of what the subscriptions of a share say."""
    flows = [record.flow for record in records if record.flow is not None]
    concurrency = min((flow.concurrency for flow in flows if flow.concurrency), default=None)
    rates: list[Rate] = [flow.rate for flow in flows if flow.rate is not None]
    rate = min(rates, key=lambda each: each.per_second, default=None)
    return Limits(concurrency, rate, now=time.monotonic())
