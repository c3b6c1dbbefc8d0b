"""Blocks of workers that Parsl gets from a batch system, a cloud, or this machine.

A call goes to Parsl only when a worker is up that is free for it. What waits for blocks that are still to come waits in
the engine, and Parsl's strategy is told how much that is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

from headrace.bus.data.failures import encode_failure, of_error
from headrace.bus.errors import MpiUnusable
from headrace.bus.mpi import is_mpi, ranks
from headrace.endpoint.engines.engine import Call
from headrace.endpoint.engines.grids.blocks import LOOPBACK, Blocks
from headrace.endpoint.engines.grids.control import Announcer
from headrace.endpoint.engines.grids.courier import Courier
from headrace.endpoint.engines.grids.grid import Ending, OnPrinted, Piece, PlaceLost, settle
from headrace.endpoint.engines.grids.orders import Control
from headrace.endpoint.engines.settings import ParslSettings

logger = logging.getLogger(__name__)

_AHEAD = 3
_MOST_TOGETHER = 64

_PORTS = (54_000, 55_000)
"""Parsl's own range for what nodes connect to, which sites have opened for it."""
_LOOK_S = 1.0
_FIRST_LOOK_S = 0.05
_FIRST_BACK_OFF_S = 1.0
_LONGEST_BACK_OFF_S = 60.0


class ParslGrid:
    """The workers of Parsl's blocks."""

    def __init__(self, settings: ParslSettings, courier: Courier, directory: Path) -> None:
        self._settings = settings
        self._courier = courier
        self._directory = directory
        self.slots = 0
        self.most = 1
        self.ahead = _AHEAD
        # An MPI call has nodes of its own.
        self.most_together = 1 if settings.is_mpi else _MOST_TOGETHER
        self.broken = ""
        self._blocks: Blocks | None = None
        self._made: Blocks | None = None
        """What has to be given back; the thread's."""
        self._announcer = Announcer(self._printed)
        # One thread for all: Parsl's interchange ends with the thread that started it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parsl")
        self._keeping: asyncio.Task[None] | None = None
        self._unfinished: dict[UUID, asyncio.Future[Ending]] = {}
        self._wanted = 0
        self._has_worked = False
        """Whether there were workers since the blocks were last asked for."""

    async def start(self, on_change: Callable[[], None], on_printed: OnPrinted) -> None:
        """Begin to ask for blocks."""
        self._on_change, self._on_printed = on_change, on_printed
        self._loop = asyncio.get_running_loop()
        self._keeping = self._loop.create_task(self._keep(), name="keep-parsl")

    def submit(self, errands: Sequence[tuple[Call, int]]) -> list[asyncio.Future[Ending]]:
        """Give calls to a block's worker."""
        if self._blocks is None:
            raise PlaceLost("Parsl's executor is gone")
        futures: dict[UUID, asyncio.Future[Ending]] = {call.key: self._loop.create_future() for call, _ in errands}
        try:
            specification = self._specification(errands[0][0])
        except MpiUnusable as error:
            for future in futures.values():
                future.set_result(_failed(error))
            return list(futures.values())
        try:
            reply = self._blocks.submit(self._courier.parcel(errands), specification)
        except Exception as error:
            raise PlaceLost(f"Parsl does not take the task: {error}") from error
        self._unfinished |= futures
        reply.add_done_callback(lambda reply: self._on_reply(futures, reply))
        return list(futures.values())

    def want(self, calls: int) -> None:
        """Let Parsl's strategy know how many calls there are."""
        self._wanted = calls
        if self._blocks is not None:
            self._blocks.demand = calls

    def kill(self, keys: Iterable[UUID]) -> None:
        """End calls, wherever they are."""
        self._announcer.kill(key for key in keys if key in self._unfinished)

    def pids(self) -> list[int]:
        """Unknown: they belong to the blocks, and end with them."""
        return []

    async def stop(self) -> None:
        """Give all blocks back."""
        self.slots = self.most = 0
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self._close()
        await self._announcer.stop()
        self._thread.shutdown(wait=False)
        self._courier.close()

    # The blocks

    async def _keep(self) -> None:
        back_off_s = _FIRST_BACK_OFF_S
        while True:
            began = time.monotonic()
            try:
                await self._open()
                problem = await self._watch()
            except ImportError as error:
                problem = f"Parsl cannot be loaded ({error}): install headrace[parsl]"
            except Exception as error:
                problem = f"Parsl cannot be set up: {type(error).__name__}: {error}"
            if time.monotonic() - began > _LONGEST_BACK_OFF_S:
                back_off_s = _FIRST_BACK_OFF_S
            logger.error(
                "No workers come from %s: %s; trying again in %g s.",
                self._settings.provider.type,
                problem,
                back_off_s,
                extra={"action": "parsl_lost"},
            )
            self._lose(problem)
            await self._close()
            await asyncio.sleep(back_off_s)
            back_off_s = min(_LONGEST_BACK_OFF_S, back_off_s * 2)

    async def _open(self) -> None:
        blocks = await self._in_thread(self._make)
        self._blocks = blocks
        blocks.demand = self._wanted
        if not self._announcer.port:
            ports = self._settings.worker_port_range or _PORTS
            is_here = blocks.addresses == [LOOPBACK]
            await self._announcer.start(LOOPBACK if is_here else None, (0, 0) if is_here else ports)
        control = Control(blocks.addresses, self._announcer.port, self._announcer.secret)
        self._courier.open(control=control, is_mpi=self._settings.is_mpi)
        # What comes from now on waits for new blocks: without tasks that wait none would be asked for.
        self.broken = ""
        self._on_change()

    async def _watch(self) -> str:
        """Look how many workers there are until the executor is beyond hope; why it is."""
        blocks = self._blocks
        assert blocks is not None  # noqa: S101 - it was opened
        look_s = _FIRST_LOOK_S
        while not (problem := blocks.problem()):
            slots = await self._in_thread(blocks.workers)
            self._has_worked = self._has_worked or slots > 0
            most = max(slots, blocks.most_workers, 1)
            if (slots, most) != (self.slots, self.most):
                self.slots, self.most = slots, most
                self._on_change()
            await asyncio.sleep(look_s)
            # Blocks that are to come may take hours.
            look_s = min(_LOOK_S, 1.2 * look_s)
        return problem

    def _lose(self, problem: str) -> None:
        # After a time that went well it may go on so: tasks wait, and fail when there are no workers then.
        self.slots, self.broken, self._has_worked = 0, "" if self._has_worked else problem, False
        unfinished, self._unfinished = self._unfinished, {}
        for future in unfinished.values():
            if not future.done():
                future.set_exception(PlaceLost(f"its worker is lost: {problem}"))
        self._on_change()

    async def _close(self) -> None:
        self._blocks = None
        with contextlib.suppress(Exception):
            await self._in_thread(self._give_back)

    def _make(self) -> Blocks:
        # Kept here and not by whoever waits for it, who may be cancelled meanwhile: jobs would stay in a queue.
        self._made = Blocks(self._settings, self._directory)
        return self._made

    def _give_back(self) -> None:
        blocks, self._made = self._made, None
        if blocks is not None:
            blocks.close()

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await self._loop.run_in_executor(self._thread, work)

    # Calls

    def _specification(self, call: Call) -> dict[str, Any] | None:
        """The nodes of a call, for Parsl to set aside. Raises `MpiUnusable`."""
        if not self._settings.is_mpi:
            return None
        try:
            asked = json.loads(call.options.resource_specification or b"{}")
            given = ranks(asked if is_mpi(asked) else {"num_nodes": 1, "ranks_per_node": 1})
        except ValueError as error:
            raise MpiUnusable(str(error)) from error
        return {
            "num_nodes": given.num_nodes,
            "ranks_per_node": given.ranks_per_node,
            "num_ranks": given.num_ranks,
            "launcher_options": given.launcher_options,
        }

    def _on_reply(self, futures: dict[UUID, asyncio.Future[Ending]], reply: Future[bytes]) -> None:
        """In a thread of Parsl's."""
        endings: Sequence[Ending | Exception]
        try:
            endings = self._courier.endings(reply.result())
        except Exception as error:
            endings = [PlaceLost(_lost_text(error))] * len(futures)
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits for it
            self._loop.call_soon_threadsafe(self._settle, futures, endings)

    def _printed(self, key: UUID, worker: str, piece: Piece) -> None:
        self._on_printed(key, worker, piece)

    def _settle(self, futures: dict[UUID, asyncio.Future[Ending]], endings: Sequence[Ending | Exception]) -> None:
        for (key, future), ending in zip(futures.items(), endings, strict=True):
            if self._unfinished.get(key) is future:
                del self._unfinished[key]
            settle(future, ending)


def _failed(error: MpiUnusable) -> Ending:
    encoding, value = encode_failure(of_error(error))
    now = time.time()
    return Ending(state="failed", encoding=encoding, value=value, started_at=now, ended_at=now, attempts=0)


def _lost_text(error: Exception) -> str:
    text = " ".join(f"{error}".split()) or type(error).__name__
    if isinstance(error, ImportError):
        return f"the nodes cannot run tasks of Headrace ({text}): worker_init must choose a Python with headrace[parsl]"
    return f"its worker was lost while it ran: {text}"
