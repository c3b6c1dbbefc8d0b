"""The matchers of named buses: one for each bus that somebody subscribes to, begun and ended while others go on.

A bus without subscriptions has no consumer, and nobody looks at it: it costs the NATS server its stream and the
dispatchers nothing. The first subscription makes its consumer, which begins behind the event that the subscription
names; when the last one has been gone for a while, whoever notices removes it. Two dispatchers may disagree for a
moment about whether there is a subscription: the one that knows of it makes the consumer again, and what is then
matched twice is delivered once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from headrace.bus.errors import StreamMissing
from headrace.bus.eventing.matching import Matcher
from headrace.bus.eventing.roster import Roster
from headrace.bus.eventing.subscriptions import last_sequence
from headrace.bus.names import DEFAULT_BUS, bus_events, event_stream, matcher_consumer
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.intake import ACK_WAIT_S
from headrace.bus.store.streams import delete_consumer, ensure_consumer

logger = logging.getLogger(__name__)

MOST_ACKS_PENDING: Final = 4096

_IDLE_S = 60.0
_LOOK_S = 15.0
_GONE_S = 0.5


async def ensure_matcher(connection: Connection, bus: str, *, start: int = 1) -> None:
    """Make the consumer through which the dispatchers take the events of a bus, from this sequence on; one that is
    there goes on where it is. Raises `StreamMissing` where there is no such bus, and `BusUnavailable`."""
    begin = {"deliver_policy": "by_start_sequence", "opt_start_seq": start} if start > 1 else {}
    await ensure_consumer(
        connection,
        event_stream(bus),
        matcher_consumer(bus),
        filter_subjects=(bus_events(bus),),
        ack_wait_s=ACK_WAIT_S,
        max_ack_pending=MOST_ACKS_PENDING,
        options=begin,
    )


class ServedBuses:
    """Runs the matchers of all buses but the default one."""

    def __init__(self, connection: Connection, roster: Roster, matcher: Matcher) -> None:
        self._connection = connection
        self._roster = roster
        self._matcher = matcher
        self._served: set[str] = set()

    async def run(self) -> None:
        """Serve buses as they are wanted, until cancelled. Raises `BusUnavailable`."""
        async with asyncio.TaskGroup() as group:
            while True:
                bus = await self._roster.wanted()
                if bus != DEFAULT_BUS and bus not in self._served:
                    self._served.add(bus)
                    group.create_task(self._serve(bus), name=f"matcher of {bus}")

    async def _serve(self, bus: str) -> None:
        try:
            await self._make(bus)
            self._roster.adopt(bus, await last_sequence(self._connection, bus=bus))
            async with asyncio.TaskGroup() as group:
                refused = asyncio.Event()
                intake = self._matcher.intake(bus, on_refused=refused.set)
                matching = group.create_task(intake.run(), name=f"events of {bus}")
                await self._look_after(bus, refused)
                matching.cancel()
            await delete_consumer(self._connection, event_stream(bus), matcher_consumer(bus))
        except* StreamMissing:
            # It was deleted, and its subscriptions are about to be.
            logger.info("The bus %s is gone.", bus, extra={"action": "bus_gone", "bus": bus})
            await asyncio.sleep(_GONE_S)
        finally:
            self._served.discard(bus)
            self._roster.leave(bus)

    async def _make(self, bus: str) -> None:
        await ensure_matcher(self._connection, bus, start=self._roster.first_wanted(bus))

    async def _look_after(self, bus: str, refused: asyncio.Event) -> None:
        """Keep the consumer there until nobody has subscribed for a while. Raises `StreamMissing`."""
        idle_s = 0.0
        while idle_s < _IDLE_S:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await refused.wait()
            except TimeoutError:
                idle_s = idle_s + _LOOK_S if self._roster.is_empty(bus) else 0.0
            else:
                refused.clear()
                await self._make(bus)
