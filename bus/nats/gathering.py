"""Storing messages that come thick and fast together: one sync and one answer for many, and no wait for a single one.

    first       a message goes its own way at once, while few are under way
    together    what piles up meanwhile goes in one batch, as soon as it is worth one
    refused     a batch in which one message cannot be stored is none: each of them then goes its own way, and gets its
                own answer

So whoever stores meets what it would meet with `Connection.store`, and need not know.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from headrace.bus.clock import Deadline
from headrace.bus.errors import BusError, BusUnavailable
from headrace.bus.nats.answers import Stored, read_stored
from headrace.bus.nats.connection import RETRY_HEADER, Connection

LEAST_TOGETHER: Final = 16
"""Fewer are quicker one by one: see `headrace.bus.nats.at_once`."""
MOST_TOGETHER: Final = 256
MOST_UNDER_WAY: Final = 8
"""What comes beyond that waits for one of them."""
MOST_BATCHES: Final = 2
"""One is stored while the next is on its way; then batches grow."""

_MOST_BYTES = 4 * 1024 * 1024
_ANSWER_WAIT_S = 5.0


class Store(Protocol):
    """Who can store a message: a connection, or a gathering before it."""

    async def store(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: dict[str, str] | None = None,
        retry: bool = False,
        timeout_s: float | None = 30.0,
    ) -> Stored:
        """See `Connection.store`."""


@dataclass(slots=True, eq=False)
class _Waiting:
    subject: str
    payload: bytes
    headers: dict[str, str] | None
    retry: bool
    turn: asyncio.Future[Stored | None]
    """Its place in the store, by somebody else's batch; or None, when it is to go now."""
    others: list[_Waiting] = field(default_factory=list)
    """Those that it takes along."""


class Gathering:
    """Messages of one stream, which must allow atomic batches, over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: deque[_Waiting] = deque()
        self._under_way = 0
        self._batches = 0

    async def store(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: dict[str, str] | None = None,
        retry: bool = False,
        timeout_s: float | None = 30.0,
    ) -> Stored:
        """Store a message as `Connection.store` does, perhaps together with others. Raises what that raises."""
        mine = _Waiting(subject, payload, headers, retry, asyncio.get_running_loop().create_future())
        deadline = Deadline(timeout_s)
        if self._under_way < MOST_UNDER_WAY and not self._waiting:
            self._under_way += 1
        else:
            stored = await self._in_turn(mine, timeout_s)
            if stored is not None:
                return stored
        try:
            if mine.others:
                stored = await self._together(mine, mine.others)
                if stored is not None:
                    return stored
            left_s = None if timeout_s is None else deadline.cut(timeout_s)
            return await self._connection.store(subject, payload, headers=headers, retry=mine.retry, timeout_s=left_s)
        finally:
            self._under_way -= 1
            self._pass_on()

    async def _in_turn(self, mine: _Waiting, timeout_s: float | None) -> Stored | None:
        """Wait for a place, or for somebody whose batch takes this one along."""
        self._waiting.append(mine)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._turn(mine)
        except TimeoutError:
            problem = f"{mine.subject!r} could not be stored within {timeout_s:g} s: others are before it"
            raise BusUnavailable(problem) from None

    async def _turn(self, mine: _Waiting) -> Stored | None:
        try:
            return await mine.turn
        except asyncio.CancelledError:
            if mine in self._waiting:
                self._waiting.remove(mine)
            elif not mine.turn.cancelled() and mine.turn.result() is None:
                # The place that nobody is there to take any more.
                self._under_way -= 1
                self._batches -= bool(mine.others)
                self._waiting.extendleft(reversed(mine.others))
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting and self._under_way < MOST_UNDER_WAY and self._batches < MOST_BATCHES:
            first = self._waiting.popleft()
            if not first.turn.done():
                first.others = self._others(first)
                self._batches += bool(first.others)
                self._go(first)

    def _go(self, waiting: _Waiting) -> None:
        if not waiting.turn.done():
            self._under_way += 1
            waiting.turn.set_result(None)

    def _others(self, first: _Waiting) -> list[_Waiting]:
        """Those that go together with this one: none, when they are too few to be worth a batch."""
        others: list[_Waiting] = []
        if len(self._waiting) + 1 < LEAST_TOGETHER:
            return others
        size = len(first.payload)
        while self._waiting and len(others) + 1 < MOST_TOGETHER:
            size += len(self._waiting[0].payload)
            if size > _MOST_BYTES:
                break
            others.append(self._waiting.popleft())
        if len(others) + 1 < LEAST_TOGETHER:
            # Large ones: a batch is written twice, and the sync that it spares is little beside their bytes.
            self._waiting.extendleft(reversed(others))
            others.clear()
        return others

    async def _together(self, mine: _Waiting, others: list[_Waiting]) -> Stored | None:
        """Store them in one batch; None when each has to go its own way."""
        together = [mine, *others]
        try:
            last = await self._commit(together)
        except BaseException as error:
            # Refused, nothing of it is stored. Without an answer all of it may be, and may have been taken by now.
            unknown = not isinstance(error, BusError) or isinstance(error, BusUnavailable)
            for each in together:
                each.retry = each.retry or unknown
            for each in others:
                self._go(each)
            if isinstance(error, BusError):
                return None
            raise
        finally:
            self._batches -= 1
        for ahead, each in enumerate(reversed(together)):
            if not each.turn.done():
                each.turn.set_result(Stored(last.sequence - ahead))
        return Stored(last.sequence - len(others))

    async def _commit(self, together: Sequence[_Waiting]) -> Stored:
        batch = {"Nats-Batch-Id": uuid.uuid4().hex}
        for number, each in enumerate(together, 1):
            headers = {**(each.headers or {}), **batch, "Nats-Batch-Sequence": str(number)}
            if each.retry:
                headers[RETRY_HEADER] = "1"
            if number < len(together):
                await self._connection.publish(each.subject, each.payload, headers=headers)
                continue
            headers["Nats-Batch-Commit"] = "1"
            answer = await self._connection.request(
                each.subject, each.payload, headers=headers, timeout_s=_ANSWER_WAIT_S
            )
        return read_stored(answer, together[-1].subject)


class Gatherings:
    """A gathering for each stream of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._of: dict[str, Gathering] = {}

    def of(self, stream: str) -> Gathering:
        """The one of a stream."""
        return self._of.setdefault(stream, Gathering(self._connection))
