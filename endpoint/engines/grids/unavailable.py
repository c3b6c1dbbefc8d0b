"""No places, and the reason: tasks fail with it at once, instead of waiting or of running where they must not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from headrace.endpoint.engines.engine import Call
from headrace.endpoint.engines.grids.grid import Ending, OnPrinted, PlaceLost


class Unavailable:
    """A grid that can run nothing."""

    def __init__(self, reason: str) -> None:
        self.slots = self.most = self.ahead = 0
        self.most_together = 1
        self.broken = reason

    async def start(self, on_change: Callable[[], None], on_printed: OnPrinted) -> None:
        """Have what waits told of the reason."""
        on_change()

    def submit(self, errands: Sequence[tuple[Call, int]]) -> list[asyncio.Future[Ending]]:
        """Raises `PlaceLost`."""
        raise PlaceLost(self.broken)

    def want(self, calls: int) -> None:
        """There will be none."""

    def kill(self, keys: Iterable[object]) -> None:
        """Nothing runs."""

    def pids(self) -> list[int]:
        """None."""
        return []

    async def stop(self) -> None:
        """There is nothing to give up."""
