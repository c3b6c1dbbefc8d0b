"""What a pool tells the NATS server of the bundles in its hands: that they are being worked on, done, or to come again.

All of it may be lost with the connection: then the bundle comes again, which means a look into the store, no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from headrace.bus.errors import BusError, BusUnavailable
from headrace.bus.nats.connection import Connection
from headrace.endpoint.agent.held import Held
from headrace.endpoint.agent.in_hand import InHand
from headrace.endpoint.agent.side_tasks import SideTasks

ACK_DELAY_S = 0.1
IN_PROGRESS_S = 0.4

_MOST_ACKS_HELD = 16


class Acks:
    """Says what becomes of bundles."""

    def __init__(self, connection: Connection, tasks: SideTasks) -> None:
        self._connection = connection
        self._tasks = tasks
        self._done: list[str] = []

    def done(self, held: Held) -> None:
        """Let the server forget a bundle, soon."""
        # Not at once: the server would write the removal in front of the next bundle, which then waits for it.
        self._done.append(held.ack_subject)
        if len(self._done) == 1:
            asyncio.get_running_loop().call_later(ACK_DELAY_S, lambda: self._tasks.spawn(self.flush(), "ack"))
        elif len(self._done) == _MOST_ACKS_HELD:
            self._tasks.spawn(self.flush(), "ack")

    async def flush(self) -> None:
        """Let the server forget the bundles that are done, now."""
        done, self._done = self._done, []
        for subject in done:
            await self._answer(subject, b"+ACK")

    def drop(self, ack_subject: str) -> None:
        """Let a message never come again, here or elsewhere."""
        self._tasks.spawn(self._answer(ack_subject, b"+TERM"), "drop")

    def later(self, ack_subject: str, after_s: int) -> None:
        """Let a bundle come again after so many seconds, here or elsewhere."""
        self._tasks.spawn(self._answer(ack_subject, b'-NAK {"delay": %d}' % (after_s * 1_000_000_000)), "hand back")

    async def give_back(self, bundles: Iterable[Held]) -> None:
        """Let bundles come to another pool at once instead of after the time for acks."""
        for held in bundles:
            with suppress(BusError):
                await self._connection.publish(held.ack_subject, b"-NAK")
        with suppress(BusError):
            await self._connection.flush(1.0)

    async def keep_in_progress(self, in_hand: InHand) -> None:
        """Say of what is in hand that it is being worked on, until cancelled."""
        while True:
            for held in list(in_hand.bundles.values()):
                await self._answer(held.ack_subject, b"+WPI")
            await asyncio.sleep(IN_PROGRESS_S)

    async def _answer(self, ack_subject: str, answer: bytes) -> None:
        with suppress(BusUnavailable):
            await self._connection.publish(ack_subject, answer)
