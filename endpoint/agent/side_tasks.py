"""What an agent does on the side for its bundles, watched: a task that dies must not keep a bundle in hand for ever."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from headrace.endpoint.agent.held import Held

logger = logging.getLogger(__name__)


class SideTasks:
    """Side tasks. `on_death` gets the bundle that cannot be finished here because its task died."""

    def __init__(self, on_death: Callable[[Held], None]) -> None:
        self._on_death = on_death
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], name: str, held: Held | None = None) -> None:
        """Run a side task; `held` is the bundle that cannot be finished here when it dies."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done if held is None else functools.partial(self._done, held=held))

    async def wait(self, timeout_s: float) -> None:
        """Wait until one of them has ended, or the time is over. There must be one."""
        await asyncio.wait(self._tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

    async def end(self) -> None:
        """Cancel them all, and wait until they have ended."""
        # One that ends may begin another; none outlives the agent.
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def _done(self, task: asyncio.Task[None], held: Held | None = None) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if held is None:
            logger.error("%s failed.", task.get_name(), exc_info=error)
            return
        # Kept in hand, it would be called in progress for ever, and no pool would get it again.
        logger.error("%s failed: the bundle comes again.", task.get_name(), exc_info=error)
        self._on_death(held)
