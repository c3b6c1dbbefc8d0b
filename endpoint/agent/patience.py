"""How long tasks may wait for their start: by the NATS server's clock, from when it stored them.

This machine's clock may be wrong, so it is never read. Every time of the server's that comes here, with a grant or with
a delivery, says that it is at least so late there; the latest of them, carried on by the monotonic clock, is taken for
the time. It is behind by what the message took to come, so no task expires early.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Container
from contextlib import suppress
from uuid import UUID

_MOST_FINISHED = 10_000


class ServerClock:
    """The time at the NATS server, in unix seconds, as far as it is known here."""

    def __init__(self) -> None:
        self._ahead_s = float("-inf")

    def learn(self, server_unix_s: float) -> None:
        """Take note that it is at least so late at the server."""
        self._ahead_s = max(self._ahead_s, server_unix_s - time.monotonic())

    def now(self) -> float:
        """The time there; minus infinity before anything is known."""
        return time.monotonic() + self._ahead_s


class Patience:
    """Bundles with tasks that may not wait for ever, and when to look at each."""

    def __init__(self, clock: ServerClock) -> None:
        self._clock = clock
        self._ends: list[tuple[float, UUID]] = []
        self._news = asyncio.Event()
        self._prune_at = _MOST_FINISHED

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, end: float, bundle: UUID, alive: Container[UUID]) -> None:
        """Look at a bundle when it is `end` at the server. What is not `alive` any more may be forgotten."""
        if not self._ends or end < self._ends[0][0]:
            self._news.set()
        heapq.heappush(self._ends, (end, bundle))
        if len(self._ends) >= self._prune_at:
            self._ends = [each for each in self._ends if each[1] in alive]
            heapq.heapify(self._ends)
            self._prune_at = max(_MOST_FINISHED, 2 * len(self._ends))

    async def run(self, on_end: Callable[[UUID], None]) -> None:
        """Name each bundle when its time has come, until cancelled."""
        while True:
            self._news.clear()
            left_s = max(0.0, self._ends[0][0] - self._clock.now()) if self._ends else None
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._news.wait()
            while self._ends and self._ends[0][0] <= self._clock.now():
                on_end(heapq.heappop(self._ends)[1])
