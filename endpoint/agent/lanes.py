"""The lanes of a pool: one puller for each principal, and what the pool has in hand is shared between them.

Each lane has a request for bundles standing, so that the first task of somebody who has been quiet for hours comes as
fast as the next of a busy one. How much a lane asks for follows from what the whole pool wants in hand: it is divided
between those who have something in hand, by their weights, and whoever has nothing may always ask for one bundle.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from headrace.bus.nats.connection import Connection
from headrace.bus.nats.pull import Delivery, Puller
from headrace.bus.queues.lane_news import LaneName
from headrace.endpoint.agent.held import Held
from headrace.endpoint.fair_share import FairShare

logger = logging.getLogger(__name__)

_PULL_BATCH = 256
_HEARTBEAT_S = 2.0
_LONGEST_HEARTBEAT_S = 10.0
_CALM_LANES = 50
"""So many lanes have a sign of life every two seconds; more of them have it less often."""
_NEWS_S = 60.0
"""News of a lane count for more than a list that may have been made before them."""


@dataclass(slots=True, kw_only=True)
class _Lane:
    principal: str
    consumer: str
    puller: Puller
    remade_up_to: int
    heard_at: float = float("-inf")
    task: asyncio.Task[None] | None = None


class PoolLanes:
    """Takes bundles from all lanes of a pool. `run` until cancelled.

    `wanted` says how many tasks the pool would like to have in hand (0: it takes nothing at all), `is_full` whether it
    has no room for more bytes.
    """

    def __init__(
        self,
        connection: Connection,
        on_delivery: Callable[[Delivery], None],
        *,
        wanted: Callable[[], int],
        is_full: Callable[[], bool],
        fair_share: FairShare,
    ) -> None:
        self._connection = connection
        self._on_delivery = on_delivery
        self._wanted = wanted
        self._is_full = is_full
        self._share = fair_share
        self._lanes: dict[str, _Lane] = {}
        self._in_hand: dict[str, int] = {}
        self._weight_in_hand = 0
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Pull from every lane that is known, now and later, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for lane in self._lanes.values():
                    self._start(lane)
                await asyncio.Event().wait()
        finally:
            self._group = None

    def adopt(self, names: Iterable[LaneName]) -> None:
        """These are all the lanes of the pool, but for those that were heard of just now."""
        listed = {name.principal: name for name in names}
        now = asyncio.get_running_loop().time()
        fresh = {principal for principal, lane in self._lanes.items() if now - lane.heard_at < _NEWS_S}
        for principal in self._lanes.keys() - listed.keys() - fresh:
            self._stop(self._lanes.pop(principal))
        for principal, name in listed.items():
            if principal in fresh and self._lanes[principal].consumer != name.consumer:
                continue
            # What was refused for want of a consumer is to be had now.
            self._set(name).puller.wake()
        self._breathe()

    def hear(self, name: LaneName) -> None:
        """The service says that there is a lane, or that it has another name now."""
        lane = self._set(name)
        lane.heard_at = asyncio.get_running_loop().time()
        lane.puller.wake()
        self._breathe()

    def remade_up_to(self, principal: str) -> int:
        """Up to which sequence another pool may hold bundles of a principal: the lane's consumer was made again."""
        lane = self._lanes.get(principal)
        return 0 if lane is None else lane.remade_up_to

    def note(self, held: Held, *, is_held: bool = True) -> None:
        """Count what is left to do of a bundle. To be told whenever that has changed, and when it is let go."""
        left = held.left if is_held else 0
        change, held.counted = left - held.counted, left
        if not change:
            return
        principal = held.address.principal
        before = self._in_hand.get(principal, 0)
        after = before + change
        if after:
            self._in_hand[principal] = after
        else:
            self._in_hand.pop(principal, None)
            # Nothing else would wake it.
            lane = self._lanes.get(principal)
            if lane is not None:
                lane.puller.wake()
        self._weight_in_hand += self._share.weight(principal) * (bool(after) - bool(before))

    def wake(self) -> None:
        """Look again how much may be asked for."""
        for principal in self._in_hand:
            lane = self._lanes.get(principal)
            if lane is not None:
                lane.puller.wake()

    def _room(self, principal: str) -> int:
        """How many bundles of a principal to ask for."""
        wanted = self._wanted()
        if not wanted:
            return 0
        mine = self._in_hand.get(principal, 0)
        if self._is_full():
            return 0 if mine else 1
        weight = self._share.weight(principal)
        share = wanted * weight // (self._weight_in_hand if mine else self._weight_in_hand + weight)
        if mine:
            return max(0, share - mine)
        # All who are quiet may begin at once.
        return max(1, share // (len(self._lanes) - len(self._in_hand) or 1))

    def _set(self, name: LaneName) -> _Lane:
        known = self._lanes.get(name.principal)
        if known is not None and known.consumer == name.consumer:
            # An older list may come after the news.
            known.remade_up_to = max(known.remade_up_to, name.remade_up_to)
            return known
        if known is not None:
            self._stop(known)
        principal = name.principal
        puller = Puller(
            self._connection,
            "TASKS",
            name.consumer,
            self._on_delivery,
            batch=_PULL_BATCH,
            room=lambda: self._room(principal),
        )
        lane = self._lanes[principal] = _Lane(
            principal=principal, consumer=name.consumer, puller=puller, remade_up_to=name.remade_up_to
        )
        self._start(lane)
        return lane

    def _start(self, lane: _Lane) -> None:
        if self._group is not None:
            lane.task = self._group.create_task(lane.puller.run(), name=f"pull bundles of {lane.principal}")

    @staticmethod
    def _stop(lane: _Lane) -> None:
        if lane.task is not None:
            lane.task.cancel()

    def _breathe(self) -> None:
        """The more lanes, the rarer the signs of life of each: all together cost the same."""
        heartbeat_s = min(_LONGEST_HEARTBEAT_S, max(_HEARTBEAT_S, _HEARTBEAT_S * len(self._lanes) / _CALM_LANES))
        for lane in self._lanes.values():
            lane.puller.heartbeat_s = heartbeat_s
