"""Actions that nobody asks for: their ends are written and their deadlines kept all the same.

Every service looks at every open action: soon after the bus says that something of it has ended (`Provider.news`), at
its deadline, and otherwise now and then. That several do so costs reads only: the first one to write an end decides.
Which actions are open the lists say (`headrace.bus.store.action_lists`).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import random
import time
from dataclasses import dataclass, field

from headrace.action_provider.errors import NotFound
from headrace.action_provider.providers import lives
from headrace.action_provider.providers.provider import TOO_LATE, ActionRow
from headrace.action_provider.providers.registry import Registry
from headrace.action_provider.state import Service
from headrace.bus.errors import BusError
from headrace.bus.nats.listening import Subscription
from headrace.bus.nats.message import Message

logger = logging.getLogger(__name__)

_SOON_S = 0.1
"""Time for the request that is under way, or another service, to write the end that this news is about."""
_AT_MOST_EVERY_S = 1.0
_AT_ONCE = 8
_LOOKS_PER_SECOND = 20
"""How often all open actions together are looked at without news."""
_FIRST_LOOKS_PER_SECOND = 200
"""How fast those are looked at that were open when the service started: other work goes on meanwhile."""
_LATE_S = 0.05
_AGAIN_S = 1.0


async def keep_actions(registry: Registry, service: Service) -> None:
    """Look at open actions until cancelled. Raises `BusError` when the lists cannot be read."""
    keeper = _Keeper(registry, service)
    connected = keeper.on_connected
    service.connection.on_connected.append(connected)
    opened = await service.tables.actions.lists.follow_open(keeper.on_open)
    try:
        await keeper.run()
    finally:
        service.connection.on_connected.remove(connected)
        await opened.cancel()
        await keeper.close()


@dataclass(eq=False, slots=True)
class _Kept:
    """One open action. `due` is when it is looked at next, by the loop's clock."""

    key: str
    due: float = 0.0
    looked_at: float = 0.0
    has_news: bool = False
    """Whether something was heard since the last look began."""
    action_id: str = ""
    """Whose news is followed: after a release another action may begin under the same key."""
    subscriptions: list[Subscription] = field(default_factory=list)


class _Keeper:
    def __init__(self, registry: Registry, service: Service) -> None:
        self._registry = registry
        self._service = service
        self._now = asyncio.get_running_loop().time
        self._kept: dict[str, _Kept] = {}
        self._queue: list[tuple[float, int, _Kept]] = []
        self._order = 0
        self._awake = asyncio.Event()
        self._unread = True

    def on_connected(self) -> None:
        """What was said meanwhile was missed."""
        self._unread = True
        self._awake.set()

    def on_open(self, key: str, in_s: float = 0.0) -> None:
        """An action is open; perhaps it is known already."""
        if key not in self._kept:
            kept = self._kept[key] = _Kept(key)
            # The first look is there to hear of news from then on.
            self._look_at(kept, self._now() + in_s)

    async def run(self) -> None:
        """Look at what is due, a few at a time, for ever."""
        while True:
            if self._unread:
                await self._read_all()
            await self._wait()
            due = self._take_due()
            results = await asyncio.gather(*map(self._look, due), return_exceptions=True)
            for kept, result in zip(due, results, strict=True):
                if isinstance(result, Exception):
                    self._failed(kept, result)

    async def close(self) -> None:
        """End every subscription."""
        for key in list(self._kept):
            await self._let_go(key)

    async def _read_all(self) -> None:
        self._unread = False
        known = len(self._kept)
        async for key in self._service.tables.actions.lists.open_keys():
            self.on_open(key, in_s=(len(self._kept) - known) / _FIRST_LOOKS_PER_SECOND)

    async def _wait(self) -> None:
        self._awake.clear()
        left_s = self._queue[0][0] - self._now() if self._queue else None
        if self._unread or (left_s is not None and left_s <= 0):
            return
        try:
            async with asyncio.timeout(left_s):
                await self._awake.wait()
        except TimeoutError:
            return

    def _take_due(self) -> list[_Kept]:
        due: list[_Kept] = []
        now = self._now()
        while self._queue and self._queue[0][0] <= now and len(due) < _AT_ONCE:
            when, _, kept = heapq.heappop(self._queue)
            # What was put forward since is in the queue a second time.
            if kept.due == when and self._kept.get(kept.key) is kept:
                due.append(kept)
        return due

    async def _look(self, kept: _Kept) -> None:
        kept.has_news = False
        found = await self._service.tables.actions.under([kept.key])
        action = found.get(kept.key)
        if action is not None and not action.value.final:
            with contextlib.suppress(NotFound):  # It was released in this moment: the next look finds nothing.
                action = await self._looked_at(kept, action)
        if action is None or action.value.final:
            await self._let_go(kept.key)
            return
        kept.looked_at = self._now()
        # What was heard while we looked may have come behind what we saw.
        self._look_at(kept, kept.looked_at + _AT_MOST_EVERY_S if kept.has_news else self._next(action))

    async def _looked_at(self, kept: _Kept, action: ActionRow) -> ActionRow:
        place = self._registry.find(action.value.provider)
        if place is not None:
            if kept.action_id != action.value.action_id:
                await self._follow(kept, action.value.action_id, place.provider.news(action.value))
            return await lives.status(self._service, place.provider, action)
        # Its provider is not of this service (any more): what can be done is to keep the deadline.
        if action.value.deadline is not None and time.time() > action.value.deadline:
            return await lives.finish(self._service, action, TOO_LATE)
        return action

    async def _follow(self, kept: _Kept, action_id: str, subjects: tuple[str, ...]) -> None:
        """Hear of news, from before the first look on."""
        while kept.subscriptions:
            await kept.subscriptions.pop().cancel()
        kept.action_id = action_id

        def heard(_: Message) -> None:
            kept.has_news = True
            when = max(self._now() + _SOON_S, kept.looked_at + _AT_MOST_EVERY_S)
            if when < kept.due and self._kept.get(kept.key) is kept:
                self._look_at(kept, when)

        for subject in subjects:
            kept.subscriptions.append(await self._service.connection.subscribe(subject, heard))
        if subjects:
            await self._service.connection.flush()

    def _look_at(self, kept: _Kept, when: float) -> None:
        kept.due = when
        self._order += 1
        heapq.heappush(self._queue, (when, self._order, kept))
        self._awake.set()

    def _next(self, action: ActionRow) -> float:
        rest_s = max(self._service.settings.actions_look_s, len(self._kept) / _LOOKS_PER_SECOND)
        rest_s *= random.uniform(0.8, 1.2)  # noqa: S311  # so that services do not look at the same moment
        deadline = action.value.deadline
        if deadline is not None:
            # One that is over was kept by this look: only a store that could not be written to brings us here.
            left_s = deadline - time.time()
            rest_s = min(rest_s, left_s + _LATE_S if left_s > 0 else _AGAIN_S)
        return self._now() + rest_s

    def _failed(self, kept: _Kept, error: Exception) -> None:
        level = logging.INFO if isinstance(error, BusError) else logging.WARNING
        logger.log(
            level,
            "An open action could not be looked at (%s); trying again.",
            error,
            exc_info=None if isinstance(error, BusError) else error,
            extra={"action": "action_not_kept", "key": kept.key},
        )
        self._look_at(kept, self._now() + _AGAIN_S)

    async def _let_go(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        while kept is not None and kept.subscriptions:
            await kept.subscriptions.pop().cancel()
