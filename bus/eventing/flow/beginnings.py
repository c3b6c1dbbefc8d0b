"""What begins, made ready: the deliveries of it that are still queued, and the plan of how they go together."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Final
from uuid import UUID

from headrace.bus.eventing.deliveries import Waiting
from headrace.bus.eventing.flow import queue
from headrace.bus.eventing.flow.calls import Call, Calls
from headrace.bus.eventing.flow.inflow import Inflow
from headrace.bus.eventing.flow.plans import Plan, single, together
from headrace.bus.eventing.flow.scheduler import Begin, Entry, Scheduler
from headrace.bus.eventing.schedules.runs import TickRuns
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.nats.connection import Connection

_SOON_S: Final = 3.0
"""What was queued later than so long after its event may have been queued before, by a dispatcher that died then."""


class Beginnings:
    """Those of one subscription, since somebody has taken it over."""

    def __init__(
        self,
        connection: Connection,
        record: SubscriptionRecord,
        scheduler: Scheduler,
        inflow: Inflow,
        calls: Calls,
        runs: TickRuns,
    ) -> None:
        self._connection = connection
        self._record = record
        self._id = record.subscription_id
        self._scheduler = scheduler
        self._inflow = inflow
        self._calls = calls
        self._runs = runs
        self._taken_over_at = 0

    async def take_over(self) -> None:
        """What is queued by now may have begun before, alone and without a plan. Raises `BusUnavailable`."""
        self._taken_over_at = await queue.queue_end(self._connection)

    async def call(self, begin: Begin) -> Call | None:
        """The call of what begins; None when nothing of it is left. Raises `StreamFull` and `BusUnavailable`."""
        return await (self._of_plan(begin, begin.plan) if begin.plan is not None else self._of_entries(begin))

    async def _of_entries(self, begin: Begin) -> Call | None:
        queued = await self._not_begun(begin, await self._read(begin))
        if not queued:
            return None
        place = self._place(queued[0][1])
        for entry, waiting in queued:
            if self._place(waiting) != place:
                self._scheduler.add(dataclasses.replace(entry, message=None))
        known = any(self._may_have_ended(*each) for each in queued)
        here = [(entry.place, waiting) for entry, waiting in queued if self._place(waiting) == place]
        if len(here) == 1:
            plan = single(here[0][0], here[0][1].delivery, place, begin.key)
        else:
            plan = together([(number, waiting.delivery) for number, waiting in here], place, begin.key)
            # Stored before it begins: whoever takes over must make the same batch of them.
            await queue.keep_plan(self._connection, self._id, plan)
        return Call(begin, plan, [waiting for _, waiting in here], time.monotonic(), known=known)

    async def _read(self, begin: Begin) -> list[tuple[Entry, Waiting]]:
        """The entries that are still queued, and to be delivered."""
        queued = []
        for entry in begin.entries:
            waiting = await self._inflow.message(entry)
            if waiting is None:
                continue
            if await self._runs.goes_on(waiting.delivery):
                queued.append((entry, waiting))
            else:
                await queue.remove(self._connection, [entry.place])
        return queued

    async def _not_begun(self, begin: Begin, queued: list[tuple[Entry, Waiting]]) -> list[tuple[Entry, Waiting]]:
        """Without those that a predecessor has begun alone, and that have ended since: they must not go in a batch."""
        if self._record.flow is None or self._record.flow.batch is None:
            return queued
        old = [
            single(entry.place, waiting.delivery, self._place(waiting), begin.key)
            for entry, waiting in queued
            if self._may_have_ended(entry, waiting)
        ]
        ended = await self._calls.ended(old) if old else []
        if not ended:
            return queued
        for plan in ended:
            self._scheduler.restore(plan)
        # The others come again, behind those: where there is an order, they have to wait for them.
        places = {plan.members[0].place for plan in ended}
        for entry, _ in queued:
            if entry.place not in places:
                self._scheduler.add(dataclasses.replace(entry, message=None))
        return []

    async def _still_queued(self, place: int) -> Waiting | None:
        waiting = await queue.read_place(self._connection, place)
        if waiting is None or await self._runs.goes_on(waiting.delivery):
            return waiting
        await queue.remove(self._connection, [place])
        return None

    async def _of_plan(self, begin: Begin, plan: Plan) -> Call | None:
        """Its deliveries may be gone: dropped, or it had ended and was not removed."""
        found = await asyncio.gather(*(self._still_queued(each.place) for each in plan.members))
        queued = [waiting for waiting in found if waiting is not None]
        if len(queued) < len(found):
            left = [member for member, waiting in zip(plan.members, found, strict=True) if waiting is not None]
            rest = plan.of(left)
            if left:
                await queue.keep_plan(self._connection, self._id, rest)
            await queue.drop_plan(self._connection, self._id, plan)
            plan = rest
        return Call(begin, plan, queued, time.monotonic(), known=True) if queued else None

    def _may_have_ended(self, entry: Entry, waiting: Waiting) -> bool:
        """Whether a predecessor may have begun it, or somebody queued it again who did not know that it is done."""
        delivery = waiting.delivery
        repeated = delivery.published_at > 0 and entry.queued_at - delivery.published_at > _SOON_S
        return entry.place <= self._taken_over_at or repeated or delivery.replay is not None

    def _place(self, waiting: Waiting) -> UUID:
        return waiting.delivery.place(self._record.endpoint_id)
