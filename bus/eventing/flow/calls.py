"""The calls of a subscription that are under way, and how their results are heard of: told by the bus, or read."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from headrace.bus import names
from headrace.bus.errors import DecodeError, SignatureInvalid
from headrace.bus.eventing.deliveries import Waiting
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.flow.plans import Plan
from headrace.bus.eventing.flow.scheduler import Begin
from headrace.bus.eventing.outcomes import first_result
from headrace.bus.eventing.replays.models import marked
from headrace.bus.keys import KeyRing
from headrace.bus.names import ResultAddress
from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.tasks.bundles import TaskResult, decode_part

logger = logging.getLogger(__name__)

_FIRST_LOOK_S: Final = 0.2
_LOOK_S: Final = 2.0
"""So often results are read of what is under way longer than this."""
_AGAIN_S: Final = 60.0
"""What gives no result for so long is stored once more, in case it was purged: what is queued is refused."""
_ASKED_TOGETHER: Final = 100


@dataclass(slots=True)
class Call:
    """A plan that has begun, with the deliveries that it has. `begun_at` is monotonic time."""

    begin: Begin
    plan: Plan
    queued: list[Waiting]
    begun_at: float
    result: TaskResult | None = None
    known: bool = False
    """Whether it may have ended already."""

    @property
    def stored(self) -> bool:
        """Whether its plan may lie in DELIVERIES."""
        return self.begin.plan is not None or len(self.plan.members) > 1

    @property
    def events(self) -> list[CloudEvent]:
        """The events of its members, in their order."""
        return [CloudEvent.of_stored(each.event) for each in self.queued]

    @property
    def shown(self) -> list[CloudEvent]:
        """The events as the function sees them: those of a replay marked."""
        pairs = zip(self.events, self.queued, strict=True)
        return [marked(event, each.delivery.replay) for event, each in pairs]


class Calls:
    """Those of one subscription. Each ends once: `on_end` is told of its result."""

    def __init__(
        self,
        connection: Connection,
        keys: KeyRing,
        owner: str,
        group: UUID,
        on_end: Callable[[Call, TaskResult], None],
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._owner = owner
        self._group = group
        self._on_end = on_end
        self._calls: dict[str, Call] = {}

    def add(self, call: Call) -> None:
        """Wait for its result."""
        self._calls[call.plan.plan_id.hex] = call

    def remove(self, call: Call) -> None:
        """Wait for it no more."""
        self._calls.pop(call.plan.plan_id.hex, None)

    def bundles(self) -> set[str]:
        """The bundles (hex) that are waited for."""
        return set(self._calls)

    def heard(self, message: Message) -> None:
        """Take what the bus tells of results of the group."""
        subject = message.subject.removeprefix("stored.")
        if subject.split(".")[4] in self._calls:
            self._take(subject, message.data)

    async def look_up(self, calls: list[Call]) -> bool:
        """Read the results of these; says whether there were any. Raises `BusUnavailable`."""
        ended = [self._take(part.subject, part.data) for part in await self._parts([call.plan for call in calls])]
        return any(ended)

    async def ended(self, plans: list[Plan]) -> list[Plan]:
        """Those of these plans that have results. Raises `BusUnavailable`."""
        found: set[str] = set()
        for start in range(0, len(plans), _ASKED_TOGETHER):
            parts = await self._parts(plans[start : start + _ASKED_TOGETHER])
            found.update(part.subject.split(".")[4] for part in parts)
        return [plan for plan in plans if plan.plan_id.hex in found]

    async def look_after(self, submit: Callable[[Call], Awaitable[None]]) -> None:
        """Read what was not told, again and again. `submit` stores a call once more."""
        pause_s = _FIRST_LOOK_S
        while True:
            await asyncio.sleep(pause_s)
            now = time.monotonic()
            old = [call for call in self._calls.values() if now - call.begun_at >= pause_s]
            for start in range(0, len(old), _ASKED_TOGETHER):
                await self.look_up(old[start : start + _ASKED_TOGETHER])
            for call in old:
                if call.plan.plan_id.hex in self._calls and now - call.begun_at > _AGAIN_S:
                    call.begun_at = now
                    await submit(call)
            pause_s = min(2 * pause_s, _LOOK_S)

    async def _parts(self, plans: list[Plan]) -> list[StoredMessage]:
        subjects = [names.bundle_results(plan.endpoint, self._owner, self._group, plan.plan_id) for plan in plans]
        parts, _ = await self._connection.read_many("RESULTS", {"multi_last": subjects, "batch": 5 * len(plans)})
        return parts

    def _take(self, subject: str, data: bytes) -> bool:
        """Take a part of a result; says whether it has ended its call."""
        try:
            where = ResultAddress.of_subject(subject)
            call = self._calls.get(where.bundle.hex)
            if call is None or (where.endpoint, where.principal) != (call.plan.endpoint, self._owner):
                return False
            key = self._keys.result_keys(where.endpoint, where.principal)
            result = first_result(decode_part(data, subject=subject, key=key))
        except (SignatureInvalid, DecodeError) as error:
            logger.warning("A result of a delivery is not believed: %s", error, extra={"action": "result_refused"})
            return False
        if result is None:
            return False
        self.remove(call)
        self._on_end(call, result)
        return True
