"""Messages of a durable consumer, each handled in a task of its own, and acked when that has ended well."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from headrace.bus.errors import BusUnavailable
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.pull import Delivery as Taken
from headrace.bus.nats.pull import Puller

logger = logging.getLogger(__name__)

ACK_WAIT_S = 5.0
"""For the consumer: after so long without a sign, somebody else gets the message."""
MOST_IN_HAND = 256

_SIGN_S = 1.5
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0

Handle = Callable[[Taken], Awaitable[None]]


class Intake:
    """Takes messages and hands each to `handle`. One that fails comes again after a pause; others pass it by.

    Messages start to be handled in the order in which they come; up to `most` are under way at once.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        handle: Handle,
        *,
        most: int = MOST_IN_HAND,
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_refused` is called when the server refuses to give messages: the consumer may be gone."""
        self._connection = connection
        self._name = consumer
        self._handle = handle
        self._in_hand: dict[str, Taken] = {}
        self._busy = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._puller = Puller(
            connection,
            stream,
            consumer,
            self._take,
            batch=most,
            room=lambda: most - len(self._in_hand),
            on_refused=on_refused,
        )

    async def run(self) -> None:
        """Take messages until cancelled; what is in hand then goes back at once."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._give_signs(), name=f"{self._name}: signs of progress")
                group.create_task(self._puller.run(), name=f"{self._name}: pull")
                try:
                    await asyncio.Event().wait()
                finally:
                    # The puller needs a moment to end; what still comes in that moment must not begin.
                    self._group = None
        finally:
            for taken in list(self._in_hand.values()):
                await self._answer(taken, b"-NAK")
            self._in_hand.clear()

    def _take(self, taken: Taken) -> None:
        if taken.ack_subject in self._in_hand:
            return
        self._in_hand[taken.ack_subject] = taken
        self._busy.set()
        if self._group is not None:
            self._group.create_task(self._work(taken), name=f"{self._name}: {taken.sequence}")

    async def _work(self, taken: Taken) -> None:
        try:
            await self._handle(taken)
            answer = b"+ACK"
        except Exception as error:
            pause_s = min(_FIRST_PAUSE_S * 2 ** min(taken.deliveries - 1, 16), _LONGEST_PAUSE_S)
            self._tell(taken, error, pause_s)
            answer = b'-NAK {"delay": %d}' % int(pause_s * 1e9)
        self._in_hand.pop(taken.ack_subject, None)
        self._puller.wake()
        await self._answer(taken, answer)

    def _tell(self, taken: Taken, error: Exception, pause_s: float) -> None:
        logger.warning(
            "A message of %s could not be handled (%s); trying again in %.0f s.",
            self._name,
            error,
            pause_s,
            exc_info=None if isinstance(error, BusUnavailable) else error,
            extra={"action": "message_postponed", "consumer": self._name, "sequence": taken.sequence},
        )

    async def _give_signs(self) -> None:
        while True:
            # There may be hundreds of us, of which few have anything in hand.
            await self._busy.wait()
            await asyncio.sleep(_SIGN_S)
            for taken in list(self._in_hand.values()):
                await self._answer(taken, b"+WPI")
            if not self._in_hand:
                self._busy.clear()

    async def _answer(self, taken: Taken, answer: bytes) -> None:
        # An answer that is lost costs a repetition, and repetitions have no effect.
        with contextlib.suppress(BusUnavailable):
            await self._connection.publish(taken.ack_subject, answer)
