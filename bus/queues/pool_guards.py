"""Listening for tasks of pools that sleep: the first one that is stored, by whoever, wakes its pool.

A task is also a plain message, so whoever subscribes to its subject hears of it. A pool that runs costs nothing here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from headrace.bus.errors import BusError
from headrace.bus.names import lane_tasks
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.listening import Subscription
from headrace.bus.nats.message import Message
from headrace.bus.queues.lanes import Lanes
from headrace.bus.store.models import PoolRecord

logger = logging.getLogger(__name__)

_AT_ONCE = 16


@dataclass(slots=True)
class _Guard:
    """Listens for tasks of one pool."""

    subscription: Subscription | None = None
    over: bool = False

    async def end(self) -> None:
        self.over = True
        if self.subscription is not None:
            await self.subscription.cancel()


class PoolGuards:
    """One for each pool that sleeps, by the key of its record. `wake` is called when there is something for it."""

    def __init__(self, connection: Connection, lanes: Lanes, wake: Callable[[UUID, str], Awaitable[None]]) -> None:
        self._connection = connection
        self._lanes = lanes
        self._wake = wake
        self._guards: dict[str, _Guard] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    def begin(self, key: str, pool: PoolRecord) -> None:
        """Listen from now on, and find what was stored since the pool has gone. Harmless when it is so already."""
        if key not in self._guards:
            guard = self._guards[key] = _Guard()
            self._spawn(self._listen(pool, guard), f"guard pool {key}")

    def end(self, key: str) -> None:
        """Listen no more."""
        guard = self._guards.pop(key, None)
        if guard is not None:
            self._spawn(guard.end(), f"leave pool {key}")

    async def stop(self) -> None:
        """End all that runs for it."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _listen(self, pool: PoolRecord, guard: _Guard) -> None:
        def on_task(_: Message) -> None:
            if not guard.over:
                guard.over = True
                self._spawn(self._woken(pool), f"wake pool {pool.pool}")

        try:
            async with self._at_once:
                subject = lane_tasks(pool.endpoint_id, pool.pool, pool.principal)
                guard.subscription = await self._connection.subscribe(subject, on_task)
                await self._connection.flush()
                # What was stored after the pool had gone, and before we listened.
                state = await self._lanes.state(pool.endpoint_id, pool.pool, pool.principal)
            if guard.over:
                await guard.end()
            elif state.depth.used:
                await self._woken(pool)
        except BusError as error:
            # The sweep is there for what comes now.
            logger.warning("A pool that sleeps is not guarded now: %s", error, extra={"action": "pool_not_guarded"})

    async def _woken(self, pool: PoolRecord) -> None:
        try:
            # Once it is wanted its guard ends.
            await self._wake(pool.endpoint_id, pool.pool)
        except BusError as error:
            logger.warning("A pool is woken later: %s", error, extra={"action": "pool_not_woken"})

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
