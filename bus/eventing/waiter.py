"""Looks at the events of buses for all actions that wait, and writes their ends. Any number may run, each for itself.

There is no consumer: the stream is read from where the waits have looked to, a page at a time, as soon as the bus tells
of an event. One reading serves all waits of a bus; one that is new, or begins in the past, catches up alone before it
joins the others. While nobody waits nothing is read and nothing is listened to.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from headrace.bus.errors import BusUnavailable, FilterInvalid
from headrace.bus.eventing.waits import Wait, arrived_after, catch_up, end, forget, save, too_late
from headrace.bus.filters import FilterIndex
from headrace.bus.names import bus_news
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.listening import Subscription
from headrace.bus.nats.message import Message
from headrace.bus.store.actions import Actions, WaitRecord
from headrace.bus.store.records import Record

logger = logging.getLogger(__name__)

_Drop = Callable[[Record[WaitRecord]], Awaitable[None]]

_LOST_BUS_WAIT_S = 0.5
_LOOK_S = 2.0
"""So often a bus is looked at for those who wait though it told of nothing: what it tells may be missed."""
_SAVED_EVERY = 10_000
"""So many events a wait may look at before that is written down: at most these are looked at again after a crash."""
_CATCHING_UP = 8


class Waiter:
    """Serves every action that waits for events. `run` until cancelled; what is under way then the next one does."""

    def __init__(self, connection: Connection, actions: Actions) -> None:
        self._connection = connection
        self._actions = actions
        self._news: asyncio.Queue[tuple[str, Record[WaitRecord] | None]] = asyncio.Queue()
        self._buses: dict[str, _Bus] = {}
        self._known: dict[str, str] = {}

    async def run(self) -> None:
        """Look until cancelled. A lost bus is waited for."""
        while True:
            try:
                await self._connection.wait_connected(None)
                await self._run()
            except* BusUnavailable as lost:
                logger.warning(
                    "The waiter lost the bus (%s); it goes on when the bus is back.",
                    lost.exceptions[0],
                    extra={"action": "waiter_waits"},
                )
            await asyncio.sleep(_LOST_BUS_WAIT_S)

    async def _run(self) -> None:
        self._news, self._buses, self._known = asyncio.Queue(), {}, {}
        watch = await self._actions.waits.watch(lambda key, record: self._news.put_nowait((key, record)))
        room = asyncio.Semaphore(_CATCHING_UP)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    key, record = await self._news.get()
                    if record is None or (record.value.ended and key in self._known):
                        self._forget(key)
                    elif key not in self._known:
                        self._known[key] = record.value.bus
                        group.create_task(self._begin(record, room, group), name=f"a wait begins: {key}")
        finally:
            await watch.stop()
            for bus in self._buses.values():
                await bus.close()

    async def _begin(self, pointer: Record[WaitRecord], room: asyncio.Semaphore, group: asyncio.TaskGroup) -> None:
        async with room:
            row = await self._actions.by_key(pointer.key)
            if row is None or row.value.action_id != pointer.value.action_id or row.value.final:
                await self._drop(pointer)
                return
            try:
                wait = Wait(row)
            except (FilterInvalid, ValueError) as error:
                logger.error(
                    "Action %s cannot be served by this release, so it waits in vain: %s",
                    row.value.action_id,
                    error,
                    extra={"action": "wait_unusable", "action_id": row.value.action_id},
                )
                return
            await catch_up(self._connection, wait)
            if (wait.complete or wait.has_news) and not await save(self._actions, wait):
                await self._drop(pointer)
                return
        if pointer.key not in self._known:
            return
        name = pointer.value.bus
        if name not in self._buses:
            self._buses[name] = _Bus(name, self._connection, self._actions, self._drop)
            group.create_task(self._buses[name].run(), name=f"waits for events of {name}")
        self._buses[name].join(pointer, wait)

    async def _drop(self, pointer: Record[WaitRecord]) -> None:
        """Forget a wait that has ended, for good."""
        self._forget(pointer.key)
        await forget(self._actions, pointer)

    def _forget(self, key: str) -> None:
        name = self._known.pop(key, None)
        if name in self._buses:
            self._buses[name].leave(key)


class _Bus:
    """Those who wait for events of one bus."""

    def __init__(self, name: str, connection: Connection, actions: Actions, drop: _Drop) -> None:
        self._name = name
        self._connection = connection
        self._actions = actions
        self._drop = drop
        self._joining: list[tuple[Record[WaitRecord], Wait]] = []
        self._waits: dict[str, tuple[Record[WaitRecord], Wait]] = {}
        self._index: FilterIndex[str] = FilterIndex()
        self._subscription: Subscription | None = None
        self._wake = asyncio.Event()

    def join(self, pointer: Record[WaitRecord], wait: Wait) -> None:
        """Serve one more from the next reading on."""
        self._joining.append((pointer, wait))
        self._wake.set()

    def leave(self, key: str) -> None:
        """Serve it no more."""
        self._joining = [each for each in self._joining if each[0].key != key]
        if self._waits.pop(key, None) is not None:
            self._index.remove(key)

    async def run(self) -> None:
        """Look until cancelled. Raises `BusUnavailable`."""
        while True:
            await self._listen()
            self._wake.clear()
            began = time.time()
            await self._look()
            await self._end_late(began)
            await self._pause()

    async def close(self) -> None:
        """Listen no more."""
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await subscription.cancel()

    async def _listen(self) -> None:
        if not self._waits and not self._joining:
            await self.close()
        elif self._subscription is None:
            self._subscription = await self._connection.subscribe(bus_news(self._name), self._told)
            await self._connection.flush()

    def _told(self, _message: Message) -> None:
        self._wake.set()

    async def _pause(self) -> None:
        if not self._waits and not self._joining:
            await self.close()
            await self._wake.wait()
            return
        deadlines = [wait.row.value.deadline for _, wait in self._waits.values()]
        pause_s = min([_LOOK_S, *(each - time.time() for each in deadlines if each is not None)])
        try:
            async with asyncio.timeout(max(pause_s, 0.0)):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _look(self) -> None:
        """Show all waits what has come, in order, up to the end of the bus."""
        more = True
        while more:
            for pointer, wait in self._joining:
                self._waits[pointer.key] = (pointer, wait)
                self._index.put(pointer.key, wait.filter)
            self._joining = []
            # Only these: who joins while the page is read may have looked less far.
            shown = {key: wait for key, (_, wait) in self._waits.items()}
            if not shown:
                return
            page, more = await arrived_after(
                self._connection, self._name, min(wait.state.position for wait in shown.values())
            )
            for arrived in page:
                if arrived.event is not None:
                    for key in self._index.matching(arrived.event) & shown.keys():
                        shown[key].take(arrived, fits=True)
            for wait in shown.values():
                wait.looked(page[-1].sequence if page else 0)
            more = more and bool(page)
            await self._save()

    async def _save(self) -> None:
        for pointer, wait in list(self._waits.values()):
            wanted = wait.complete or wait.has_news or wait.unsaved >= _SAVED_EVERY
            if wanted and not await save(self._actions, wait):
                await self._drop(pointer)

    async def _end_late(self, now: float) -> None:
        for pointer, wait in list(self._waits.values()):
            deadline = wait.row.value.deadline
            if deadline is not None and deadline < now:
                await end(self._actions, wait.row, too_late(wait.row.value, wait.state))
                await self._drop(pointer)
