"""A pool that is kept running, with the settings of the moment."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from headrace.endpoint.pool_process import PoolProcess

logger = logging.getLogger(__name__)

_LOOK_S = 0.05


class KeptPool:
    """Runs a pool until it is cancelled. New settings count once the pool has nothing to do: no task is cut short."""

    def __init__(self, process: PoolProcess, settings: dict[str, Any]) -> None:
        self._process = process
        self._settings = settings
        self._changed = asyncio.Event()

    def change(self, settings: dict[str, Any]) -> bool:
        """Take these settings as soon as the pool is idle; whether they differ from those it has."""
        if settings == self._settings:
            return False
        self._settings = settings
        self._changed.set()
        return True

    async def run(self) -> None:
        """Keep the pool running. Ends only when cancelled, and leaves the process to whoever cancels."""
        while True:
            self._changed.clear()
            keep = asyncio.create_task(self._process.keep(self._settings), name="keep pool")
            changed = asyncio.create_task(self._idle_with_changes(), name="changes of the pool")
            try:
                done, _ = await asyncio.wait((keep, changed), return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                keep.cancel()
                changed.cancel()
                await asyncio.gather(keep, changed, return_exceptions=True)
            await self._process.stop()
            # Only now: until here the pool could still take a task with its former settings.
            logger.info("The pool starts anew with the changed settings.", extra={"action": "pool_changed"})

    async def _idle_with_changes(self) -> None:
        await self._changed.wait()
        if not self._is_idle():
            logger.info("The pool takes the changed settings when its tasks are done.", extra={"action": "pool_waits"})
        while not self._is_idle():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(_LOOK_S)

    def _is_idle(self) -> bool:
        return not any(status["busy"] or status["queued"] for status in self._process.status())
