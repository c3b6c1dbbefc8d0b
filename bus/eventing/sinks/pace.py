"""When a sink may be asked next: its rate, what it said with Retry-After, and a pause while it answers nobody.

While nothing but failures comes that say nothing about the request (no connection, no answer, 5xx), one request at a
time is made, after pauses that grow: what waits then keeps its attempts for better times.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from headrace.bus.eventing.sinks.verdicts import OF_THIS_MOMENT, SinkVerdict

MOST_FAILURES: Final = 5
"""So many in a row, and the sink counts as down."""
LONGEST_PAUSE_S: Final = 60.0


class Pace:
    """The pace of the requests to one sink."""

    def __init__(
        self, concurrency: int, rate_per_minute: int | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._slots = asyncio.Semaphore(concurrency)
        self._alone = asyncio.Lock()
        self._interval_s = 60.0 / rate_per_minute if rate_per_minute else 0.0
        self._next = 0.0
        self._asked_to_wait_until = 0.0
        self._down_until = 0.0
        self._failures = 0

    @property
    def is_down(self) -> bool:
        """Whether the sink counts as down."""
        return self._failures >= MOST_FAILURES

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait until a request may be made, and hold its place until it has ended."""
        async with self._slots:
            if self.is_down:
                async with self._alone:
                    await self.turn()
                    yield
                return
            await self.turn()
            yield

    async def turn(self) -> None:
        """Wait until the next request may be made."""
        while (delay_s := self.wait_s()) > 0:
            await asyncio.sleep(delay_s)
            if self._clock() >= self._held_until:
                return  # the place in the rate that it has taken has come

    def wait_s(self) -> float:
        """How long until the next request may be made; this takes a place in the rate."""
        now = self._clock()
        at = max(now, self._next, self._held_until)
        if self._interval_s:
            self._next = at + self._interval_s
        return at - now

    def told(self, verdict: SinkVerdict) -> None:
        """Learn from the end of a request."""
        now = self._clock()
        # What is asked for is kept, whatever others that were under way at the time say.
        self._asked_to_wait_until = max(self._asked_to_wait_until, now + verdict.retry_after_s)
        says_nothing = not verdict.succeeded and not verdict.permanent and verdict.status not in OF_THIS_MOMENT
        self._failures = self._failures + 1 if says_nothing else 0
        pause_s = min(2.0 ** (self._failures - MOST_FAILURES), LONGEST_PAUSE_S) if self.is_down else 0.0
        self._down_until = now + pause_s

    @property
    def _held_until(self) -> float:
        return max(self._asked_to_wait_until, self._down_until)
