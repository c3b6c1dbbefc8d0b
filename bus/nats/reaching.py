"""A NATS server to which several ways may lead, and the search for one that does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from headrace.bus.errors import BusUnavailable
from headrace.bus.network import Network, Way

T = TypeVar("T")

_FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 1.0
_ATTEMPT_S: Final = 2.0
_LONG_ATTEMPT_S: Final = 4.5
"""Through a proxy or a WebSocket: as many as seven times there and back before the first word of NATS's."""


class Server:
    """The server behind these URLs, as this network leads there. While it is away it is knocked at every
    `longest_wait_s` at the latest."""

    def __init__(self, urls: Sequence[str], network: Network, *, longest_wait_s: float = LONGEST_WAIT_S) -> None:
        self._longest_wait_s = longest_wait_s
        self._urls = list(network.nats_urls or urls)
        self._network = network
        self._last: Way | None = None

    @property
    def name(self) -> str:
        """Where it is, for people."""
        return ", ".join(self._urls)

    async def reach(self, attempt: Callable[[Way], Awaitable[T]], within_s: float) -> T:
        """What the first attempt gives that does not raise `BusUnavailable`. A server that does not answer is knocked
        at again and again.

        Raises `BusUnavailable` when the time is over, `NetworkUnusable`, and whatever else an attempt raises.
        """
        errors: dict[Way, BusUnavailable] = {}
        try:
            async with asyncio.timeout(within_s):
                return await self._knock(attempt, errors)
        except TimeoutError:
            several = len(errors) > 1
            problems = "".join(f"; {way}: {error}" if several else f": {error}" for way, error in errors.items())
            raise BusUnavailable(f"no NATS server answers at {self.name} within {within_s:g} s{problems}") from None

    async def _knock(self, attempt: Callable[[Way], Awaitable[T]], errors: dict[Way, BusUnavailable]) -> T:
        ways = self._network.ways(self._urls)
        # What worked the last time is tried first: the others may be such as never answer.
        ways.sort(key=lambda way: way != self._last)
        wait_s = _FIRST_WAIT_S
        while True:
            for way in ways:
                try:
                    reached = await _in_time(attempt, way)
                except BusUnavailable as unavailable:
                    errors[way] = unavailable
                else:
                    self._last = way
                    return reached
            # Not all clients of a server that is away at the same moments, nor ten times a second.
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - nothing secret
            wait_s = min(wait_s * 1.5, self._longest_wait_s)


async def _in_time(attempt: Callable[[Way], Awaitable[T]], way: Way) -> T:
    within_s = _ATTEMPT_S if way.is_short else _LONG_ATTEMPT_S
    try:
        async with asyncio.timeout(within_s):
            return await attempt(way)
    except TimeoutError:
        raise BusUnavailable(f"no answer from {way} within {within_s:g} s") from None
