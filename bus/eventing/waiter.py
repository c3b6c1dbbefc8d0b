"""Looks at the events of buses for all actions that wait, and writes their ends. Any number may run, each for itself.

There is no consumer: the stream is read from where the waits have looked to, a page at a time, as soon as the bus tells
of an event. One reading serves all waits of a bus, and costs what the events cost that fit; one that is new, or begins
far in the past, catches up alone before it joins the others. While nobody waits nothing is read, or listened to.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from headrace.bus.errors import FilterInvalid, StreamMissing
from headrace.bus.eventing.arrivals import arrived_after
from headrace.bus.eventing.subscriptions import last_sequence
from headrace.bus.eventing.waits import Wait, catch_up, end, forget, save, too_late
from headrace.bus.filters import FilterIndex
from headrace.bus.names import DEFAULT_BUS, bus_news
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.listening import Subscription
from headrace.bus.nats.message import Message
from headrace.bus.nats.steadfast import run_steadfastly
from headrace.bus.store.actions import ActionRecord, Actions, WaitRecord
from headrace.bus.store.records import Record

logger = logging.getLogger(__name__)

_Drop = Callable[[Record[WaitRecord]], Awaitable[None]]
_Pointer = Record[WaitRecord]

_LOOK_S = 2.0
"""So often a bus is looked at for those who wait though it told of nothing: what it tells may be missed."""
_SAVED_EVERY = 50_000
"""So many events may be looked at before all waits write it down: at most these are looked at again after a crash."""
_NEAR = 4 * _SAVED_EVERY
"""Waits that have not looked at more events than these begin together when a service starts."""
_CATCHING_UP = 8
_ROWS = 200


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
        await run_steadfastly(self._connection, self._run, who="waiter", logger=logger)

    async def _run(self) -> None:
        self._news, self._buses, self._known = asyncio.Queue(), {}, {}
        watch = await self._actions.waits.watch(lambda key, record: self._news.put_nowait((key, record)))
        room = asyncio.Semaphore(_CATCHING_UP)
        try:
            async with asyncio.TaskGroup() as group:
                await self._begin_together(room, group)
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

    async def _begin_together(self, room: asyncio.Semaphore, group: asyncio.TaskGroup) -> None:
        """All that wait when a service starts: one reading for those that have looked about as far."""
        pointers = []
        while not self._news.empty():
            key, record = self._news.get_nowait()
            if record is not None:
                self._known[key] = record.value.bus
                pointers.append(record)
        buses = {pointer.value.bus for pointer in pointers}
        newest = {bus: await self._newest(bus) for bus in buses}
        for start in range(0, len(pointers), _ROWS):
            page = pointers[start : start + _ROWS]
            rows = await self._actions.under([pointer.key for pointer in page])
            for pointer in page:
                wait = await self._wait_of(pointer, rows.get(pointer.key))
                if wait is not None and newest[pointer.value.bus] - wait.state.position <= _NEAR:
                    self._join(pointer, wait, group)
                elif wait is not None:
                    group.create_task(self._catch_up(pointer, wait, room, group), name=f"a wait begins: {pointer.key}")

    async def _newest(self, bus: str) -> int:
        try:
            return await last_sequence(self._connection, bus=bus)
        except StreamMissing:
            if bus == DEFAULT_BUS:
                raise
            return 0  # it was deleted

    async def _begin(self, pointer: _Pointer, room: asyncio.Semaphore, group: asyncio.TaskGroup) -> None:
        wait = await self._wait_of(pointer, await self._actions.by_key(pointer.key))
        if wait is not None:
            await self._catch_up(pointer, wait, room, group)

    async def _wait_of(self, pointer: _Pointer, row: Record[ActionRecord] | None) -> Wait | None:
        """The wait of a pointer; None when it has ended, which is then told, or cannot be served."""
        if row is None or row.value.action_id != pointer.value.action_id or row.value.final:
            await self._drop(pointer)
            return None
        try:
            return Wait(row)
        except (FilterInvalid, ValueError) as error:
            logger.error(
                "Action %s cannot be served by this release, so it waits in vain: %s",
                row.value.action_id,
                error,
                extra={"action": "wait_unusable", "action_id": row.value.action_id},
            )
            return None

    async def _catch_up(self, pointer: _Pointer, wait: Wait, room: asyncio.Semaphore, group: asyncio.TaskGroup) -> None:
        async with room:
            await catch_up(self._connection, wait)
        if (wait.complete or wait.has_news) and not await save(self._actions, wait):
            await self._drop(pointer)
        elif pointer.key in self._known:
            self._join(pointer, wait, group)

    def _join(self, pointer: _Pointer, wait: Wait, group: asyncio.TaskGroup) -> None:
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
    """Those who wait for events of one bus. All of them have looked as far as `_position`, unless they look alone."""

    def __init__(self, name: str, connection: Connection, actions: Actions, drop: _Drop) -> None:
        self._name = name
        self._connection = connection
        self._actions = actions
        self._drop = drop
        self._joining: list[tuple[_Pointer, Wait]] = []
        self._waits: dict[str, tuple[_Pointer, Wait]] = {}
        self._index: FilterIndex[str] = FilterIndex()
        self._deadlines: list[tuple[float, str]] = []
        self._position = 0
        self._saved = 0
        self._subscription: Subscription | None = None
        self._wake = asyncio.Event()

    def join(self, pointer: _Pointer, wait: Wait) -> None:
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
        if self._subscription is None and (self._waits or self._joining):
            self._subscription = await self._connection.subscribe(bus_news(self._name), self._told)
            await self._connection.flush()

    def _told(self, _message: Message) -> None:
        self._wake.set()

    async def _pause(self) -> None:
        if not self._waits and not self._joining:
            await self.close()
            await self._wake.wait()
            return
        pause_s = min(_LOOK_S, self._deadlines[0][0] - time.time() if self._deadlines else _LOOK_S)
        try:
            async with asyncio.timeout(max(pause_s, 0.0)):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _look(self) -> None:
        """Show those who wait what has come, in order, up to the end of the bus."""
        more = True
        while more:
            await self._take_in()
            if not self._waits:
                return
            page, more = await arrived_after(self._connection, self._name, self._position)
            touched = set()
            for arrived in page:
                if arrived.event is not None:
                    for key in self._index.matching(arrived.event):
                        self._waits[key][1].take(arrived, fits=True)
                        touched.add(key)
            more = more and bool(page)
            self._position = page[-1].sequence if page else self._position
            await self._save([key for key in touched if self._waits[key][1].has_news])
            if self._position - self._saved >= _SAVED_EVERY:
                await self._save(list(self._waits))
                self._saved = self._position

    async def _take_in(self) -> None:
        """Those who joined are served from now on; one that has not looked as far as the others does so alone."""
        joining, self._joining = self._joining, []
        if joining and not self._waits:
            self._position = self._saved = min(wait.state.position for _, wait in joining)
        for pointer, wait in joining:
            self._waits[pointer.key] = (pointer, wait)
            self._index.put(pointer.key, wait.filter)
            if wait.row.value.deadline is not None:
                heapq.heappush(self._deadlines, (wait.row.value.deadline, pointer.key))
        for pointer, wait in joining:
            if wait.state.position < self._position and pointer.key in self._waits:
                await catch_up(self._connection, wait)
                await self._save([pointer.key] if wait.has_news else [])

    async def _save(self, keys: Sequence[str]) -> None:
        for key in keys:
            if key in self._waits:
                pointer, wait = self._waits[key]
                wait.looked(self._position)
                if not await save(self._actions, wait):
                    await self._drop(pointer)

    async def _end_late(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] < now:
            _, key = heapq.heappop(self._deadlines)
            if key in self._waits:
                pointer, wait = self._waits[key]
                await end(self._actions, wait.row, too_late(wait.row.value, wait.state))
                await self._drop(pointer)
