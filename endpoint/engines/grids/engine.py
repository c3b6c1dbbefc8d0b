"""Runs calls on a grid: what has a place there runs, everything else stays where it can be taken back.

A call is given to the grid only when there is a place for it, so it counts as running from then on; of short ones a few
more are on their way. Calls that wait for places which are still to come (jobs in a batch system's queue) are held
here, no more than those places could run.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import logging
import math
import time
from collections.abc import Iterable
from uuid import UUID

from headrace.bus.data.failures import encode_failure, of_error
from headrace.bus.errors import TaskError, TaskLost
from headrace.endpoint.engines.engine import (
    Call,
    FinalState,
    Load,
    Outcome,
    OutcomesCallback,
    Output,
    OutputCallback,
    Source,
)
from headrace.endpoint.engines.grids.errands import Errand, Habit, Parcel
from headrace.endpoint.engines.grids.grid import Ending, Grid, Piece, PlaceLost
from headrace.endpoint.engines.grids.heard import Heard
from headrace.endpoint.engines.processes.endings import cancelled

logger = logging.getLogger(__name__)

_MOST_FAILED_AT_ONCE = 1_000
_MOST_ESTIMATES = 100_000
_TOGETHER_S = 0.005
_TOGETHER_BYTES = 1_000_000


class GridEngine:
    """The engine for places that others keep. All methods belong to the event loop that `start` runs in."""

    def __init__(
        self,
        source: Source,
        on_outcomes: OutcomesCallback,
        grid: Grid,
        *,
        on_output: OutputCallback | None = None,
        most_losses: int = 3,
    ) -> None:
        self._source = source
        self._on_outcomes = on_outcomes
        self._on_output = on_output
        self._grid = grid
        self._most_losses = most_losses
        self._waiting: collections.deque[Errand] = collections.deque()
        self._delayed: dict[UUID, Errand] = {}
        self._running: dict[UUID, Errand] = {}
        self._places = 0
        """How many parcels are at, or on the way to, a place."""
        self._long = 0
        """How many of those that run are not known to be short."""
        self._functions: dict[UUID, Habit] = {}
        self._outcomes: list[Outcome] = []
        self._is_telling = False
        self._is_dealing = False
        self._is_waking = False
        self._stopping: asyncio.Task[list[UUID]] | None = None
        self._deadline = math.inf
        self._change = asyncio.Event()

    # The seam

    async def start(self) -> None:
        """Let the grid begin to have places."""
        await self._grid.start(self.wake, self._on_printed)

    def wake(self) -> None:
        """Say that the source may have calls, or the grid places."""
        if self._is_dealing or self._stopping is not None:
            return
        self._is_dealing = True
        try:
            self._deal()
        except Exception:
            logger.exception("The source failed to hand out a call; it is asked again the next time.")
        finally:
            self._is_dealing = False

    def cancel(self, keys: Iterable[UUID], *, force: bool = False) -> None:
        """Cancel calls that have not started; with `force` also those that run."""
        wanted = frozenset(keys)
        for errand in self._remove(wanted):
            self._end_with(errand, "cancelled", cancelled(), attempts=errand.tries)
        if force:
            killed = [errand for key, errand in self._running.items() if key in wanted]
            for errand in killed:
                errand.force = True
            self._grid.kill([errand.call.key for errand in killed])

    def take_back(self, keys: Iterable[UUID]) -> list[UUID]:
        """Give back calls that were never started."""
        wanted = frozenset(keys)
        fresh = [errand for errand in self._waiting if errand.call.key in wanted and not errand.tries]
        for errand in fresh:
            self._waiting.remove(errand)
        return [errand.call.key for errand in fresh]

    async def stop(self, *, grace_s: float) -> list[UUID]:
        """Stop in order; a second call, with a shorter grace, hurries the first one."""
        self._deadline = min(self._deadline, time.monotonic() + grace_s)
        self._change.set()
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(), name="stop-engine")
        return await asyncio.shield(self._stopping)

    def load(self) -> Load:
        """How busy it is."""
        return Load(workers=self._grid.slots, busy=len(self._running), queued=len(self._waiting) + len(self._delayed))

    def running(self) -> list[UUID]:
        """The calls that have a place."""
        return list(self._running)

    def pids(self) -> list[int]:
        """The processes of this machine that run calls."""
        return self._grid.pids()

    # Dealing out calls

    def _deal(self) -> None:
        grid = self._grid
        while self._has_room():
            errand = self._next()
            if errand is None:
                break
            if self._places >= grid.slots and not errand.looks_short():
                self._waiting.appendleft(errand)
                break
            self._start(self._together(errand))
        if grid.broken and not self._running:
            self._fail_pending(grid.broken)
        elif len(self._waiting) + len(self._running) < grid.most:
            self._hold(grid.most - len(self._running))
        grid.want(len(self._running) + len(self._waiting))

    def _has_room(self) -> bool:
        """Whether there is a free place; more is given away while all that run are short, since the way to a place
        takes longer than they do."""
        slots = self._grid.slots
        return self._places < slots or (not self._long and self._places < slots * (1 + self._grid.ahead))

    def _together(self, first: Errand) -> list[Errand]:
        """What goes to a place with this one."""
        parcel = [first]
        if first.looks_tiny():
            worth_s = size = 0.0
            while len(parcel) < self._grid.most_together:
                last = parcel[-1]
                worth_s += last.function.estimate_s or 0.0
                size += len(last.call.arguments)
                if worth_s > _TOGETHER_S or size > _TOGETHER_BYTES:
                    break
                errand = self._next()
                if errand is None:
                    break
                if not errand.looks_tiny():
                    self._waiting.appendleft(errand)
                    break
                parcel.append(errand)
        return parcel

    def _hold(self, most: int) -> None:
        """Have calls here for places that are to come."""
        while len(self._waiting) < most:
            call = self._source.next_call()
            if call is None:
                return
            self._waiting.append(self._errand(call))

    def _errand(self, call: Call) -> Errand:
        function = self._functions.get(call.function)
        if function is None:
            if len(self._functions) >= _MOST_ESTIMATES:
                self._functions.clear()
            function = self._functions[call.function] = Habit()
        return Errand(call, function)

    def _next(self) -> Errand | None:
        if self._waiting:
            return self._waiting.popleft()
        call = self._source.next_call()
        return None if call is None else self._errand(call)

    def _start(self, errands: list[Errand]) -> None:
        now, parcel = time.time(), Parcel(len(errands))
        self._places += 1
        for errand in errands:
            errand.started_at, errand.parcel = now, parcel
            errand.is_short = errand.looks_short()
            self._long += not errand.is_short
            self._running[errand.call.key] = errand
        try:
            futures = self._grid.submit([(errand.call, errand.tries) for errand in errands])
        except PlaceLost as error:
            for errand in errands:
                # Deferred, or a grid that loses all would be given the same call again and again without a pause.
                asyncio.get_running_loop().call_soon(self._on_lost, errand, str(error))
        else:
            for errand, future in zip(errands, futures, strict=True):
                future.add_done_callback(functools.partial(self._on_done, errand))

    def _fail_pending(self, problem: str) -> None:
        for _ in range(_MOST_FAILED_AT_ONCE):
            errand = self._next()
            if errand is None:
                return
            broken = TaskLost(f"no worker can be started on this endpoint: {problem}")
            self._end_with(errand, "failed", broken, attempts=errand.tries)
        asyncio.get_running_loop().call_soon(self.wake)

    # What comes back

    def _on_done(self, errand: Errand, future: asyncio.Future[Ending]) -> None:
        if errand.call.key not in self._running or future.cancelled():
            return
        error = future.exception()
        if error is not None:
            if not isinstance(error, PlaceLost):
                logger.error("A call could not be run: %r", error, exc_info=error)
            self._on_lost(errand, str(error) or type(error).__name__)
            return
        self._leave_place(errand)
        ending = future.result()
        errand.function.note(ending.ended_at - ending.started_at)
        for piece in ending.printed if errand.heard is None else errand.heard.rest(ending.printed):
            self._give(errand, ending.worker, piece)
        if ending.raised and not errand.force and errand.raised < errand.call.options.max_retries:
            self._retry(errand)
        else:
            self._end(errand, ending)
        self._on_change()

    def _on_printed(self, key: UUID, worker: str, piece: Piece) -> None:
        """A place tells of what a call prints that may still run."""
        errand = self._running.get(key)
        if errand is None:
            return
        if errand.heard is None:
            errand.heard = Heard()
        if errand.heard.follows(piece):
            self._give(errand, worker, piece)

    def _give(self, errand: Errand, worker: str, piece: Piece) -> None:
        if self._on_output is None:
            return
        stream, run, attempt, offset, at, data = piece
        output = Output(
            key=errand.call.key,
            stream=stream,
            run=run,
            attempt=attempt,
            offset=offset,
            time=at,
            data=data,
            worker=worker,
        )
        self._on_output(output)

    def _on_lost(self, errand: Errand, how: str) -> None:
        """The place is gone, and perhaps the call had started."""
        if errand.call.key not in self._running:
            return
        self._leave_place(errand)
        tries = errand.losses + 1
        if errand.force:
            self._end_with(errand, "cancelled", cancelled(), attempts=errand.tries + 1)
        elif not errand.call.options.rerun_on_loss:
            text = f"{how}, and the task must not run twice (rerun_on_loss is off)"
            self._end_with(errand, "failed", TaskLost(text), attempts=errand.tries + 1)
        elif tries >= self._most_losses:
            text = f"{how}; it was tried {tries} times"
            self._end_with(errand, "failed", TaskLost(text), attempts=errand.tries + 1)
        else:
            errand.losses += 1
            self._waiting.appendleft(errand)
        self._on_change()

    def _leave_place(self, errand: Errand) -> None:
        del self._running[errand.call.key]
        self._long -= not errand.is_short
        assert errand.parcel is not None  # noqa: S101 - it was started
        errand.parcel.left -= 1
        self._places -= not errand.parcel.left

    def _retry(self, errand: Errand) -> None:
        errand.raised += 1
        delay_s = errand.call.options.retry_delay_s
        if delay_s <= 0:
            self._waiting.append(errand)
            return
        self._delayed[errand.call.key] = errand
        errand.timer = asyncio.get_running_loop().call_later(delay_s, self._after_delay, errand)

    def _after_delay(self, errand: Errand) -> None:
        self._waiting.append(self._delayed.pop(errand.call.key))
        self.wake()

    # Endings

    def _end(self, errand: Errand, ending: Ending) -> None:
        self._outcomes.append(
            Outcome(
                key=errand.call.key,
                state=ending.state,
                encoding=ending.encoding,
                value=ending.value,
                started_at=ending.started_at,
                ended_at=ending.ended_at,
                attempts=errand.tries + ending.attempts,
                worker=ending.worker,
                log_end=ending.log_end,
            )
        )
        self._tell_soon()

    def _end_with(self, errand: Errand, state: FinalState, error: TaskError, *, attempts: int) -> None:
        encoding, value = encode_failure(of_error(error))
        now = time.time()
        self._outcomes.append(
            Outcome(
                key=errand.call.key,
                state=state,
                encoding=encoding,
                value=value,
                started_at=errand.started_at,
                ended_at=now,
                attempts=attempts,
            )
        )
        self._tell_soon()

    def _tell_soon(self) -> None:
        if not self._is_telling:
            self._is_telling = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._is_telling = False
        outcomes, self._outcomes = self._outcomes, []
        if not outcomes:
            return
        try:
            self._on_outcomes(outcomes)
        except Exception:
            logger.exception("The outcomes of %d calls could not be taken; they are lost here.", len(outcomes))

    def _on_change(self) -> None:
        self._change.set()
        if not self._is_waking:
            # Many calls end together.
            self._is_waking = True
            asyncio.get_running_loop().call_soon(self._wake_now)

    def _wake_now(self) -> None:
        self._is_waking = False
        self.wake()

    def _remove(self, keys: frozenset[UUID]) -> list[Errand]:
        found = [errand for errand in self._waiting if errand.call.key in keys]
        for errand in found:
            self._waiting.remove(errand)
        for key in keys & self._delayed.keys():
            errand = self._delayed.pop(key)
            if errand.timer is not None:
                errand.timer.cancel()
            found.append(errand)
        return found

    # Leaving

    async def _stop(self) -> list[UUID]:
        while self._running:
            self._change.clear()
            try:
                await asyncio.wait_for(self._change.wait(), max(0.0, min(self._deadline - time.monotonic(), 3600.0)))
            except TimeoutError:
                if time.monotonic() >= self._deadline:
                    break
        self._tell()
        # Told of before their places are given up: what dies now was given back, and is not lost.
        for errand in self._delayed.values():
            if errand.timer is not None:
                errand.timer.cancel()
        left = [*self._running, *(errand.call.key for errand in self._waiting), *self._delayed]
        killed = list(self._running)
        self._running.clear()
        self._long = self._places = 0
        self._waiting.clear()
        self._delayed.clear()
        self._grid.kill(killed)
        await self._grid.stop()
        return left
