"""Threads of the pool's own process, for calls that wait for others, or that share memory.

A thread cannot be ended. A call over its time limit, or one that is cancelled by force, has its outcome at once; its
thread is left to itself, another one takes its place, and what the call still does is nobody's. A call that takes the
process down takes all others along: the pool is started again, and what did not end runs again.

What a call prints from Python, in its own thread, is kept; what compiled code, other threads or other processes print
goes to the log of the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import queue
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from headrace.bus.data.encodings import INLINE_BYTES
from headrace.bus.data.failures import encode_failure, of_error
from headrace.bus.errors import TaskError, TaskExpired
from headrace.bus.functions.serializers import ALL, Allowed
from headrace.endpoint.engines.engine import Call, FinalState
from headrace.endpoint.engines.grids.grid import Ending, OnPrinted
from headrace.endpoint.engines.grids.thread_output import captured
from headrace.endpoint.engines.processes.endings import cancelled
from headrace.endpoint.worker.calls import Calls
from headrace.endpoint.worker.frames import RAISED, SUCCEEDED

logger = logging.getLogger(__name__)

_AHEAD = 1

_MOST_FUNCTIONS = 1_000
_MOST_RESULT_BYTES = 16 << 30


@dataclass(eq=False)
class _Run:
    """A call on its way through a thread. `future` and `timer` are the event loop's; the rest is under a lock."""

    call: Call
    future: asyncio.Future[Ending]
    function: int
    attempt: int
    started_at: float = 0.0
    thread: str = ""
    is_over: bool = False
    """Whether its thread is done with it."""
    is_given_up: bool = False
    """Whether nobody waits for it any more."""
    timer: asyncio.TimerHandle | None = None


class ThreadGrid:
    """So many threads."""

    def __init__(
        self,
        threads: int,
        *,
        spool: Path | None = None,
        inline_bytes: int = INLINE_BYTES,
        most_output_bytes: int = 0,
        allowed: Allowed = ALL,
    ) -> None:
        """`most_output_bytes` is how much is kept of what a call prints; 0 keeps nothing. `allowed` is what is read.

        Raises `ValueError` for fewer than one thread.
        """
        if threads < 1:
            raise ValueError(f"an engine needs at least one thread, not {threads}")
        self.slots = self.most = threads
        self.ahead = _AHEAD
        self.most_together = 1
        self.broken = ""
        self._calls = Calls(_MOST_RESULT_BYTES, None, spool, inline_bytes, allowed, in_threads=True)
        self._most_output_bytes = most_output_bytes
        self._lock = threading.Lock()
        self._functions: OrderedDict[UUID, int] = OrderedDict()
        self._numbers = itertools.count(1)
        self._queue: queue.SimpleQueue[_Run | None] = queue.SimpleQueue()
        self._runs: dict[UUID, _Run] = {}
        self._host = socket.gethostname()
        self.abandoned = 0
        """How many threads were left to themselves."""

    async def start(self, on_change: Callable[[], None], on_printed: OnPrinted) -> None:
        """Start the threads. What their calls print comes with their ends."""
        self._loop = asyncio.get_running_loop()
        for _ in range(self.slots):
            self._start_thread()
        on_change()

    def submit(self, errands: Sequence[tuple[Call, int]]) -> list[asyncio.Future[Ending]]:
        """Give calls to the next threads that are free."""
        return [self._submit(call, attempts) for call, attempts in errands]

    def _submit(self, call: Call, attempts: int) -> asyncio.Future[Ending]:
        run = _Run(call, self._loop.create_future(), self._number(call), attempts + 1)
        self._runs[call.key] = run
        self._queue.put(run)
        return run.future

    def want(self, calls: int) -> None:
        """Threads do not become more."""

    def kill(self, keys: Iterable[UUID]) -> None:
        """Leave the threads of these calls to themselves."""
        for key in keys:
            run = self._runs.get(key)
            if run is not None:
                self._abandon(run, "cancelled", cancelled())

    def pids(self) -> list[int]:
        """None but the pool itself."""
        return []

    async def stop(self) -> None:
        """Let idle threads end. Busy ones end with the process."""
        for run in list(self._runs.values()):
            self._settle(run)
            run.future.cancel()
        for _ in range(self.slots):
            self._queue.put(None)

    def _number(self, call: Call) -> int:
        """The number under which the threads know a function."""
        number = self._functions.get(call.function)
        if number is None:
            number = self._functions[call.function] = next(self._numbers)
            self._calls.learn([(number, call.code)], forget=False)
            while len(self._functions) > _MOST_FUNCTIONS:
                _, oldest = self._functions.popitem(last=False)
                self._calls.forget(oldest)
        else:
            self._functions.move_to_end(call.function)
        return number

    # In the event loop

    def _on_start(self, run: _Run) -> None:
        limit_s = run.call.options.task_timeout_s
        if limit_s is not None and not run.future.done():
            left_s = run.started_at + limit_s - time.time()
            run.timer = self._loop.call_later(max(0.0, left_s), self._on_time_over, run, limit_s)

    def _on_time_over(self, run: _Run, limit_s: float) -> None:
        text = (
            f"the task ran longer than its limit of {limit_s:g} s (task_timeout_s); a thread cannot be stopped, so what"
            " it does now is not waited for any more"
        )
        self._abandon(run, "expired", TaskExpired(text))

    def _abandon(self, run: _Run, state: FinalState, error: TaskError) -> None:
        with self._lock:
            if run.is_over or run.is_given_up:
                return  # its end is on the way
            run.is_given_up = True
        self._settle(run)
        encoding, value = encode_failure(of_error(error))
        now = time.time()
        if run.thread:
            self.abandoned += 1
            logger.warning(
                "A thread was left to itself, for its task cannot be stopped; by now %d of this pool. Restart the"
                " endpoint if they are many.",
                self.abandoned,
                extra={"action": "thread_abandoned", "task": str(run.call.key)},
            )
            self._start_thread()
        run.future.set_result(
            Ending(
                state=state,
                encoding=encoding,
                value=value,
                started_at=run.started_at or now,
                ended_at=now,
                worker=run.thread,
            )
        )

    def _on_end(self, run: _Run, ending: Ending) -> None:
        if not run.future.done():
            self._settle(run)
            run.future.set_result(ending)

    def _settle(self, run: _Run) -> None:
        self._runs.pop(run.call.key, None)
        if run.timer is not None:
            run.timer.cancel()

    # In the threads

    def _start_thread(self) -> None:
        threading.Thread(target=self._work, name="headrace-call", daemon=True).start()

    def _work(self) -> None:
        name = f"{self._host}/{os.getpid()}-{threading.get_native_id()}"
        while (run := self._queue.get()) is not None:
            with self._lock:
                if run.is_given_up:
                    continue
                run.thread, run.started_at = name, time.time()
            if run.call.options.task_timeout_s is not None:
                self._soon(self._on_start, run)
            ending = self._run(run)
            with self._lock:
                run.is_over = True
                if run.is_given_up:
                    return  # another thread is in our place
            self._soon(self._on_end, run, ending)

    def _run(self, run: _Run) -> Ending:
        call, began = run.call, time.perf_counter()
        with captured(self._most_output_bytes) as output:
            kind, encoding, value = self._calls.run(
                run.function, call.encoding, call.arguments, call.options.json_result
            )
        return Ending(
            state="succeeded" if kind == SUCCEEDED else "failed",
            encoding=encoding,
            value=value,
            started_at=run.started_at,
            ended_at=run.started_at + time.perf_counter() - began,
            worker=run.thread,
            log_end=output.end,
            printed=output.pieces(run.attempt),
            raised=kind == RAISED,
        )

    def _soon(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits for it
            self._loop.call_soon_threadsafe(function, *arguments)
