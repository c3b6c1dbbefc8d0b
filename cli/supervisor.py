"""Starts parts in order, keeps them running, stops them in the reverse order. It knows nothing about what they are."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Protocol

logger = logging.getLogger(__name__)

_LOOK_S = 1.0


class Running(Protocol):
    """A part that was started."""

    @property
    def pid(self) -> int:
        """Its process id."""

    async def wait(self) -> int:
        """Wait until it ended; its exit status."""

    async def stop(self, grace_s: float) -> None:
        """Let it finish, for no longer than `grace_s`; it has ended when this returns."""

    def kill(self) -> None:
        """End it at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing to keep running. `ready` returns once it answers; it is asked after each start."""

    name: str
    start: Callable[[], Awaitable[Running]]
    ready: Callable[[], Coroutine[object, object, None]]
    stop_within_s: float = 3.0
    broken: Callable[[], bool] | None = None
    """Whether it runs and yet cannot work until it is started anew; asked each second. It is then killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOff:
    """How long to wait before a part is started again: doubling, and from the beginning after a stable run."""

    first_s: float = 0.1
    longest_s: float = 5.0
    stable_after_s: float = 10.0


class Supervisor:
    """Use `start`, then `wait_until` something, then `stop`; `kill` ends everything at once, at any time."""

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        failed: Callable[[str, int], Exception],
        back_off: BackOff | None = None,
    ) -> None:
        """`failed` makes the error for a part, by its name and exit status, that ended before it was ever ready."""
        self._kept = [_Kept(part, back_off or BackOff(), failed) for part in parts]

    async def start(self) -> None:
        """Start all parts, one when the one before it has been started, and wait until all of them are ready.

        Raises what the start of a part raised, or the error of a part that ended before it was ready. What runs then
        is still running: `stop` or `kill` it.
        """
        for kept in self._kept:
            await kept.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                for kept in self._kept:
                    tasks.create_task(kept.first_ready(), name=f"await {kept.part.name}")
        except ExceptionGroup as failures:
            # One cause is enough for a person; the others are mostly its consequence.
            raise failures.exceptions[0] from None

    async def keep(self) -> None:
        """Start again whatever ends, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for kept in self._kept:
                tasks.create_task(kept.be_kept(), name=f"await {kept.part.name}")

    async def stop(self) -> None:
        """Stop the parts, the last one first: a part may need, while it finishes, those before it."""
        for kept in self._kept:
            kept.keep_no_more()
        for kept in reversed(self._kept):
            await kept.stop()

    def kill(self) -> None:
        """End all parts at once."""
        for kept in self._kept:
            kept.keep_no_more()
            kept.kill()


class _Kept:
    """One part under supervision."""

    def __init__(self, part: Part, back_off: BackOff, failed: Callable[[str, int], Exception]) -> None:
        self.part = part
        self._back_off = back_off
        self._failed = failed
        self._running: Running | None = None
        self._started_at = 0.0
        self._delay_s = back_off.first_s
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._started_at = time.monotonic()
        self._running = await self.part.start()
        logger.debug("Started %s as process %d.", self.part.name, self._running.pid)

    async def first_ready(self) -> None:
        """Wait until the part answers; raises when it ends before that."""
        status = await self._ready_or_ended()
        if status is not None:
            raise self._failed(self.part.name, status)
        # Already now: if it ends while the others are awaited, they may need it to become ready.
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.part.name}")

    async def be_kept(self) -> None:
        """Go on for ever, once it was ready for the first time."""
        if self._keeper is not None:
            await self._keeper

    def keep_no_more(self) -> None:
        """Do not start it again when it ends."""
        if self._keeper is not None:
            self._keeper.cancel()

    async def _keep(self) -> None:
        while True:
            status = await self._end()
            if time.monotonic() - self._started_at > self._back_off.stable_after_s:
                self._delay_s = self._back_off.first_s
            logger.warning(
                "%s ended (%s); starting it again in %.1f s. The others carry on.",
                self.part.name,
                exit_text(status),
                self._delay_s,
                extra={"action": "part_ended", "part": self.part.name, "status": status},
            )
            await self._restart()

    async def _end(self) -> int:
        """Wait until the part has ended, by itself or because it was of no use any more; its exit status."""
        running = self._expect_running()
        ended = asyncio.ensure_future(running.wait())
        try:
            while True:
                done, _ = await asyncio.wait((ended,), timeout=_LOOK_S if self.part.broken else None)
                if done:
                    return ended.result()
                if self.part.broken is not None and self.part.broken():
                    logger.warning(
                        "%s runs, but cannot work any more; ending it.",
                        self.part.name,
                        extra={"action": "part_broken", "part": self.part.name},
                    )
                    running.kill()
                    return await ended
        finally:
            ended.cancel()

    async def stop(self) -> None:
        if self._running is not None:
            await self._running.stop(self.part.stop_within_s)
            logger.debug("Stopped %s.", self.part.name)

    def kill(self) -> None:
        if self._running is not None:
            self._running.kill()

    async def _restart(self) -> None:
        while True:
            await asyncio.sleep(self._delay_s)
            self._delay_s = min(self._delay_s * 2, self._back_off.longest_s)
            try:
                await self.start()
                break
            except Exception as error:
                # Whatever keeps it from starting (a full disk, say) may pass; the others carry on meanwhile.
                logger.warning(
                    "%s cannot be started: %s; trying again in %.1f s.",
                    self.part.name,
                    error,
                    self._delay_s,
                    extra={"action": "part_start_failed", "part": self.part.name},
                )
        if await self._ready_or_ended() is None:
            logger.info("%s answers again.", self.part.name, extra={"action": "part_ready", "part": self.part.name})

    async def _ready_or_ended(self) -> int | None:
        """None once the part answers, or its exit status when it ended before that."""
        ready = asyncio.create_task(self.part.ready(), name=f"{self.part.name} ready")
        ended = asyncio.create_task(self._expect_running().wait(), name=f"{self.part.name} ended")
        try:
            await asyncio.wait((ready, ended), return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                return ended.result()
            await ready
            logger.debug("%s answers %.2f s after its start.", self.part.name, time.monotonic() - self._started_at)
            return None
        finally:
            ready.cancel()
            ended.cancel()

    def _expect_running(self) -> Running:
        if self._running is None:
            raise RuntimeError(f"{self.part.name} was not started")
        return self._running


def exit_text(status: int) -> str:
    """An exit status in words; negative ones are signals."""
    return f"killed by signal {-status}" if status < 0 else f"status {status}"
