"""Runs calls on worker processes of this machine, which are reused, watched and replaced.

Short calls are sent in frames worth about five milliseconds, with up to two frames on their way to a worker, so that
none waits for the engine; calls that take long, or whose duration nobody knows yet, go one at a time to idle workers.
A worker that dies takes only the call that it ran with it: two counters in shared memory say which one that was.
A worker that may run only so many calls has a successor that was started before its last one.
"""

from __future__ import annotations

import asyncio
import collections
import heapq
import logging
import math
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from uuid import UUID

from headrace.bus.errors import TaskCancelled, TaskError, TaskExpired, TaskLost
from headrace.bus.failures import encode_failure, of_error
from headrace.bus.values import INLINE_BYTES
from headrace.endpoint.cgroups import MemoryGroups
from headrace.endpoint.engine import FinalState, Load, Outcome, OutcomesCallback, Output, OutputCallback, Source
from headrace.endpoint.frames import RAISED, SUCCEEDED, Report, ReportItem, Work
from headrace.endpoint.limits import WorkerLimits
from headrace.endpoint.output import PRINTED_LIMIT
from headrace.endpoint.output_desk import OutputDesk
from headrace.endpoint.sandbox import SandboxRoot
from headrace.endpoint.slots import FunctionTimes, Job, Slot, Succession
from headrace.endpoint.worker_process import WorkerCommand, WorkerProcess

logger = logging.getLogger(__name__)

_FRAME_S = 0.005
_FRAME_BYTES = 1_000_000
_OVERHEAD_S = 20e-6
_STALL_S = 0.05
_MOST_PUT_BACKS = 20
_MOST_FUNCTIONS = 1_000
_MOST_ESTIMATES = 100_000
_MOST_FAILED_AT_ONCE = 1_000
_SETTLED_S = 5.0
_FIRST_BACK_OFF_S = 0.1
_LONGEST_BACK_OFF_S = 5.0
_LEAVE_S = 1.0
_DIE_S = 2.0


class ProcessEngine:
    """The engine for one machine. All methods belong to the event loop that `start` runs in."""

    def __init__(
        self,
        source: Source,
        on_outcomes: OutcomesCallback,
        *,
        workers: int,
        python: str = sys.executable,
        most_result_bytes: int = 16 << 30,
        most_losses: int = 3,
        most_start_failures: int = 5,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        output: int | None = None,
        on_output: OutputCallback | None = None,
        most_output_bytes: int = PRINTED_LIMIT,
        limits: WorkerLimits | None = None,
        memory_groups: MemoryGroups | None = None,
        spool: Path | None = None,
        inline_bytes: int = INLINE_BYTES,
    ) -> None:
        """`environment`, `directory` and `output` (a descriptor for what calls print) are the workers'; None inherits.
        `spool` is where payloads of more than `inline_bytes` lie; None sends everything to the workers and back.

        `on_output` gets what calls print instead of `output`, `most_output_bytes` of each run of a call.
        `memory_groups` is where the memory limit is put in force; without it workers limit themselves.

        Raises `ValueError` for fewer than one worker.
        """
        if workers < 1:
            raise ValueError(f"an engine needs at least one worker, not {workers}")
        self._source = source
        self._on_outcomes = on_outcomes
        self._command = WorkerCommand(
            python=python,
            most_result_bytes=most_result_bytes,
            directory=directory,
            environment=environment,
            output=output,
            keeps_output=on_output is not None,
            limits=limits or WorkerLimits(),
            memory_groups=memory_groups,
            spool=spool,
            inline_bytes=inline_bytes,
        )
        self._share = self._command.limits.max_tasks or math.inf
        self._succession_at = (self._command.limits.max_tasks or 0) // 10
        self._sandboxes = SandboxRoot.of(self._command.limits)
        self._removals: set[asyncio.Future[None]] = set()
        self._leaving: set[WorkerProcess] = set()
        self._most_losses = most_losses
        self._most_start_failures = most_start_failures
        self._slots = [Slot(number) for number in range(workers)]
        self._desk = OutputDesk(self._slots, on_output or _ignore, most_output_bytes)
        self._functions: dict[UUID, FunctionTimes] = {}
        self._again: collections.deque[Job] = collections.deque()
        self._held: Job | None = None
        self._delayed: dict[UUID, Job] = {}
        self._outcomes: list[Outcome] = []
        self._stopping: asyncio.Task[list[UUID]] | None = None
        self._deadline = math.inf
        self._is_dealing = False
        self._broken = ""
        self._change = asyncio.Event()
        self._host = socket.gethostname()

    # The seam

    async def start(self) -> None:
        """Start the workers. Returns at once; calls are pulled as soon as one is up."""
        if self._command.keeps_output:
            self._desk.start()
        for slot in self._slots:
            self._fill(slot, 0.0)

    def wake(self) -> None:
        """Say that the source may have calls."""
        self._deal()
        self._tell()

    def cancel(self, keys: Iterable[UUID], *, force: bool = False) -> None:
        """Cancel calls that have not started; with `force` kill the workers that run the others.

        A call on its way to a busy worker counts as running.
        """
        wanted = frozenset(keys)
        if self._held is not None and self._held.call.key in wanted:
            held, self._held = self._held, None
            self._end(held, "cancelled", _cancelled())
        for job in [job for job in self._again if job.call.key in wanted]:
            self._again.remove(job)
            self._end(job, "cancelled", _cancelled())
        for key in wanted & self._delayed.keys():
            self._end(self._delayed.pop(key), "cancelled", _cancelled())
        if force:
            for slot in self._slots:
                for job in slot.inflight.values():
                    job.force = job.force or job.call.key in wanted
                self._kill_if_forced(slot)
        self._tell()

    def take_back(self, keys: Iterable[UUID]) -> list[UUID]:
        """Give back calls that were never started; not those that are on their way to a worker."""
        wanted = frozenset(keys)
        found = [job for job in self._again if job.call.key in wanted and job.attempts == 1]
        for job in found:
            self._again.remove(job)
        if self._held is not None and self._held.call.key in wanted and self._held.attempts == 1:
            found.append(self._held)
            self._held = None
        return [job.call.key for job in found]

    async def stop(self, *, grace_s: float) -> list[UUID]:
        """Stop in order; a second call, with a shorter grace, hurries the first one."""
        self._deadline = min(self._deadline, time.monotonic() + grace_s)
        self._change.set()
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(), name="stop-engine")
        return await asyncio.shield(self._stopping)

    def load(self) -> Load:
        """How busy it is."""
        up = [slot for slot in self._slots if slot.worker is not None]
        busy = sum(1 for slot in up if slot.inflight)
        inside = sum(len(slot.inflight) for slot in up) + len(self._again) + len(self._delayed)
        return Load(workers=len(up), busy=busy, queued=inside + (self._held is not None) - busy)

    def running(self) -> list[UUID]:
        """The calls that run at this moment."""
        jobs = (slot.inflight.get(slot.worker.running) for slot in self._slots if slot.worker is not None)
        return [job.call.key for job in jobs if job is not None]

    def pids(self) -> list[int]:
        """The processes of the workers that are up; each leads a process group of its own."""
        return [slot.worker.pid for slot in self._slots if slot.worker is not None] + [w.pid for w in self._leaving]

    # Dealing out calls

    def _deal(self) -> None:
        """Give every worker that has room something to do, as evenly as the estimates allow."""
        if self._is_dealing or self._stopping is not None:
            return
        self._is_dealing = True
        try:
            room = [(slot.backlog_s, slot.number) for slot in self._slots if slot.has_room()]
            if room:
                self._stage(room)
            elif self._broken:
                self._fail_pending()
        except Exception:
            logger.exception("The source failed to hand out a call; it is asked again the next time.")
        finally:
            for slot in self._slots:
                if slot.staged:
                    self._send(slot)
            self._is_dealing = False

    def _stage(self, room: list[tuple[float, int]]) -> None:
        heapq.heapify(room)
        slots = self._slots
        while room:
            job = self._next_job()
            if job is None:
                return
            backlog_s, number = room[0]
            slot = slots[number]
            estimate_s = job.function.estimate_s
            if estimate_s is None or estimate_s > _FRAME_S or job.alone:
                if backlog_s > 0:  # nobody is idle; it goes first as soon as somebody is
                    self._held = job
                    return
                job.worth_s = estimate_s or _FRAME_S
                slot.staged.append(job)
                slot.is_exclusive = True
                heapq.heappop(room)
                continue
            size = len(job.call.arguments)
            if slot.staged and slot.staged_bytes + size > _FRAME_BYTES:
                self._held = job
                heapq.heappop(room)
                continue
            job.worth_s = estimate_s + _OVERHEAD_S
            slot.staged.append(job)
            slot.staged_bytes += size
            backlog_s += job.worth_s
            if backlog_s > slot.backlog_s + _FRAME_S or len(slot.staged) >= slot.share:
                heapq.heappop(room)
            else:
                heapq.heapreplace(room, (backlog_s, number))

    def _next_job(self) -> Job | None:
        if self._held is not None:
            job, self._held = self._held, None
            return job
        if self._again:
            return self._again.popleft()
        call = self._source.next_call()
        if call is None:
            return None
        function = self._functions.get(call.function)
        if function is None:
            if len(self._functions) >= _MOST_ESTIMATES:
                self._functions.clear()
            function = self._functions[call.function] = FunctionTimes()
        return Job(call, function)

    def _send(self, slot: Slot) -> None:
        assert slot.worker is not None  # noqa: S101 - only a slot with room was staged for
        calls, functions = [], []
        sandboxes: dict[int, str] = {}
        number = slot.sent
        # Nothing that was sent before is left to run, so nothing needs the functions sent before.
        forget = len(slot.functions) > _MOST_FUNCTIONS and not slot.inflight
        if forget:
            slot.functions.clear()
        for job in slot.staged:
            call = job.call
            number += 1
            slot.inflight[number] = job
            slot.backlog_s += job.worth_s
            place = slot.functions.get(call.function)
            if place is None:
                place = slot.functions[call.function] = number
                functions.append((place, call.code))
            calls.append((number, place, call.encoding, call.arguments, call.options.json_result))
            if self._sandboxes is not None:
                sandboxes[number] = _sandbox_name(job)
            if job.alone:
                self._start_timer(slot, job)
        slot.sent = number
        slot.share -= len(calls)
        slot.frame_ends.append(number)
        slot.staged, slot.staged_bytes = [], 0
        self._desk.hurry()
        slot.worker.send(Work(calls, functions, forget, sandboxes=sandboxes))
        if slot.share <= self._succession_at and slot.succession is None:
            self._prepare_succession(slot)

    def _fail_pending(self) -> None:
        for _ in range(_MOST_FAILED_AT_ONCE):
            job = self._next_job()
            if job is None:
                return
            self._end(job, "failed", TaskLost(f"no worker can be started on this endpoint: {self._broken}"))
        asyncio.get_running_loop().call_soon(self.wake)

    # What workers report

    def _on_report(self, slot: Slot, worker: WorkerProcess, report: Report) -> None:
        if worker in self._leaving:
            return  # its minder had something to say that no longer matters
        if slot.succession is not None and worker is slot.succession.process:
            slot.succession.is_ready = True
            return
        if slot.worker is None:
            self._on_ready(slot, worker)
        if report.printed:
            self._desk.on_ended(slot, worker, report.printed)
        for item in report.ended:
            job = slot.inflight.pop(item[0], None)
            if job is not None:
                self._on_ended(slot, job, item)
        self._put_back([slot.inflight.pop(n) for n in sorted(report.returned) if n in slot.inflight], slot)
        if report.ended:
            slot.has_worked, slot.failures = True, 0
        self._settle(slot)
        if report.stalled in slot.inflight:
            slot.stalled = report.stalled
            slot.inflight[report.stalled].function.note(_STALL_S)
            self._kill_if_forced(slot)
        self._deal()
        self._tell()

    def _on_ready(self, slot: Slot, worker: WorkerProcess) -> None:
        slot.worker = worker
        slot.share = self._share
        slot.name = f"{self._host}/{worker.pid}"
        self._broken = ""

    def _on_ended(self, slot: Slot, job: Job, item: ReportItem) -> None:
        _, kind, encoding, value, started_at, duration_s = item
        slot.backlog_s -= job.worth_s
        job.function.note(duration_s)
        if job.timer is not None:
            self._stop_timer(job)
        log_end = self._desk.finish(job, slot.name) if job.output is not None else None
        if kind == RAISED and job.raised < job.call.options.max_retries and not job.force:
            self._retry(job)
            return
        self._outcomes.append(
            Outcome(
                key=job.call.key,
                state="succeeded" if kind == SUCCEEDED else "failed",
                encoding=encoding,
                value=value,
                started_at=started_at,
                ended_at=started_at + duration_s,
                attempts=job.attempts,
                worker=slot.name,
                log_end=log_end,
            )
        )

    def _settle(self, slot: Slot) -> None:
        """Bring the slot's accounts up to date after calls left it."""
        if not slot.inflight and slot.share <= 0:
            self._retire(slot)
        if not slot.inflight:
            slot.backlog_s = 0.0  # no drift from adding and subtracting
            slot.frame_ends.clear()
            slot.is_exclusive = False
            slot.stalled = 0
            return
        first = next(iter(slot.inflight))
        while slot.frame_ends and slot.frame_ends[0] < first:
            slot.frame_ends.popleft()
        if slot.stalled and slot.stalled not in slot.inflight:
            slot.stalled = 0

    def _put_back(self, jobs: list[Job], slot: Slot) -> None:
        slot.share += len(jobs)
        for job in reversed(jobs):
            slot.backlog_s -= job.worth_s
            self._stop_timer(job)
            if job.force:
                self._end(job, "cancelled", _cancelled())
            else:
                self._again.appendleft(job)

    def _retry(self, job: Job) -> None:
        job.raised += 1
        delay_s = job.call.options.retry_delay_s
        if delay_s <= 0:
            self._again.append(job)
            return
        self._delayed[job.call.key] = job
        job.timer = asyncio.get_running_loop().call_later(delay_s, self._after_delay, job)

    def _after_delay(self, job: Job) -> None:
        job.timer = None
        self._again.append(self._delayed.pop(job.call.key))
        self.wake()

    # Ends that are not the worker's

    def _end(self, job: Job, state: FinalState, error: TaskError, *, slot: Slot | None = None) -> None:
        self._stop_timer(job)
        log_end = self._desk.finish(job, slot.name if slot else "")
        encoding, value = encode_failure(of_error(error))
        self._outcomes.append(
            Outcome(
                key=job.call.key,
                state=state,
                encoding=encoding,
                value=value,
                started_at=job.started_at,
                ended_at=time.time(),
                attempts=job.attempts if slot else job.losses + job.raised,
                worker=slot.name if slot else "",
                log_end=log_end,
            )
        )

    def _tell(self) -> None:
        if self._outcomes:
            outcomes, self._outcomes = self._outcomes, []
            try:
                self._on_outcomes(outcomes)
            except Exception:
                logger.exception("The outcomes of %d calls could not be taken; they are lost here.", len(outcomes))
        self._change.set()

    def _start_timer(self, slot: Slot, job: Job) -> None:
        limit_s = job.call.options.task_timeout_s
        job.started_at = time.time()
        if limit_s is not None:
            job.timer = asyncio.get_running_loop().call_later(limit_s, self._on_time_over, slot, job)

    def _stop_timer(self, job: Job) -> None:
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None

    def _on_time_over(self, slot: Slot, job: Job) -> None:
        job.timer = None
        limit_s = job.call.options.task_timeout_s
        error = TaskExpired(f"the task ran longer than its limit of {limit_s:g} s (task_timeout_s) and was stopped")
        self._kill_for(slot, job, "expired", error)

    def _kill_if_forced(self, slot: Slot) -> None:
        job = slot.inflight.get(slot.worker.running) if slot.worker else None
        if job is not None and job.force:
            self._kill_for(slot, job, "cancelled", _cancelled())

    def _kill_for(self, slot: Slot, job: Job, state: FinalState, error: TaskError) -> None:
        if slot.verdict is None and slot.worker is not None:
            slot.verdict = (job, state, error)
            slot.worker.kill()

    # Workers that start and die

    def _fill(self, slot: Slot, after_s: float) -> None:
        slot.task = asyncio.get_running_loop().create_task(
            self._start_worker(slot, after_s), name=f"start-worker-{slot.number}"
        )

    async def _start_worker(self, slot: Slot, after_s: float) -> None:
        await asyncio.sleep(after_s)
        worker = slot.process = self._new_worker(slot)
        try:
            await worker.start()
        except OSError as error:
            slot.process = None
            self._on_start_failure(slot, f"{self._command.python} cannot be started: {error}")

    def _new_worker(self, slot: Slot) -> WorkerProcess:
        return WorkerProcess(
            self._command,
            on_report=lambda worker, report: self._on_report(slot, worker, report),
            on_end=lambda worker: self._on_worker_end(slot, worker),
        )

    def _prepare_succession(self, slot: Slot) -> None:
        """Start the worker that takes the place of one that has nearly done its share of calls."""
        slot.succession = Succession()
        slot.task = asyncio.get_running_loop().create_task(
            self._start_successor(slot, slot.succession), name=f"start-successor-{slot.number}"
        )

    async def _start_successor(self, slot: Slot, succession: Succession) -> None:
        worker = succession.process = self._new_worker(slot)
        try:
            await worker.start()
        except OSError as error:
            succession.process = None
            logger.warning("A worker's successor cannot be started: %s; it is tried again in its turn.", error)
            if slot.process is worker:
                slot.process = None
                self._fill(slot, _FIRST_BACK_OFF_S)

    def _retire(self, slot: Slot) -> None:
        """Let a worker go that has done its share, and put its successor in its place."""
        worker = slot.worker
        assert worker is not None  # noqa: S101 - who is not here has no share
        worker.send(Work([], [], leave=True))
        self._leaving.add(worker)
        # Threads that a call left behind may keep it from leaving.
        asyncio.get_running_loop().call_later(_LEAVE_S, worker.kill)
        self._succeed(slot)

    def _succeed(self, slot: Slot) -> None:
        """Fill a place whose worker is gone, with its successor if there is one."""
        succession, slot.succession = slot.succession, None
        slot.clear()
        if self._stopping is not None:
            if succession is not None and succession.process is not None:
                self._leaving.add(succession.process)
                succession.process.kill()
        elif succession is None or succession.process is None:
            self._fill(slot, 0.0)
        else:
            slot.process = succession.process
            if succession.is_ready:
                self._on_ready(slot, succession.process)

    def _on_worker_end(self, slot: Slot, worker: WorkerProcess) -> None:
        if worker in self._leaving:
            self._leaving.discard(worker)
            self._desk.on_death(slot, worker)
        elif slot.succession is not None and worker is slot.succession.process:
            slot.succession.process = None
            self._desk.on_death(slot, worker)
        else:
            self._on_death(slot, worker)

    def _on_death(self, slot: Slot, worker: WorkerProcess) -> None:
        how, jobs, verdict = worker.explain_end(), slot.inflight, slot.verdict
        was_ready, running, finished = slot.worker is not None, worker.running, worker.finished
        self._desk.on_death(slot, worker)
        if worker.exceeded_memory and jobs and not running:
            # The last result was too much for it, or taking in the largest arguments.
            running = finished if finished in jobs else max(jobs, key=lambda number: len(jobs[number].call.arguments))
        returned: list[Job] = []
        if running in jobs:
            self._remove_sandbox(jobs[running])
        for number, job in jobs.items():
            self._stop_timer(job)
            if verdict is not None and job is verdict[0]:
                self._end(job, verdict[1], verdict[2], slot=slot)
            elif verdict is None and number == running:
                self._on_lost(slot, job, how, returned, is_final=worker.exceeded_memory)
            elif number <= finished and not job.call.options.rerun_on_loss:
                self._end(job, "failed", TaskLost(_lost_text(job, how)), slot=slot)
            elif job.put_backs >= _MOST_PUT_BACKS:
                self._end(job, "failed", TaskLost(f"its workers died {job.put_backs + 1} times; the last one {how}"))
            else:
                job.put_backs += 1
                returned.append(job)
        is_useless = not was_ready or (
            not jobs and not slot.has_worked and time.monotonic() - worker.began_at < _SETTLED_S
        )
        slot.clear()
        self._put_back(returned, slot)
        slot.backlog_s = 0.0
        if self._stopping is None and is_useless and slot.succession is None:
            self._on_start_failure(slot, f"the worker process {how} before it was of use; see the log of the endpoint")
        else:
            if verdict is None and self._stopping is None:
                logger.warning("A worker %s; it is being replaced.", how, extra={"action": "worker_died"})
            self._succeed(slot)
        self._deal()
        self._tell()

    def _remove_sandbox(self, job: Job) -> None:
        if self._sandboxes is not None:
            # It may hold much, and the engine has other workers to serve.
            removal = asyncio.get_running_loop().run_in_executor(None, self._sandboxes.remove, _sandbox_name(job))
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)

    def _on_lost(self, slot: Slot, job: Job, how: str, returned: list[Job], *, is_final: bool) -> None:
        if job.force:
            self._end(job, "cancelled", _cancelled(), slot=slot)
        elif is_final:  # it would come to the same limit again
            self._end(job, "failed", TaskLost(f"the worker process {how} while the task ran"), slot=slot)
        elif not job.call.options.rerun_on_loss or job.losses + 1 >= self._most_losses:
            self._end(job, "failed", TaskLost(_lost_text(job, how)), slot=slot)
        else:
            self._desk.finish(job, slot.name)
            job.losses += 1
            job.alone = True
            returned.append(job)

    def _on_start_failure(self, slot: Slot, problem: str) -> None:
        slot.failures += 1
        after_s = min(_FIRST_BACK_OFF_S * 2 ** min(slot.failures - 1, 10), _LONGEST_BACK_OFF_S)
        logger.error(
            "A worker cannot be used: %s; trying again in %.1f s.",
            problem,
            after_s,
            extra={"action": "worker_start_failed", "failures": slot.failures},
        )
        if slot.failures >= self._most_start_failures and not any(s.worker for s in self._slots):
            self._broken = problem
        if self._stopping is None:
            self._fill(slot, after_s)
        self._deal()
        self._tell()

    # Leaving

    async def _stop(self) -> list[UUID]:
        # No call is pulled from here on; those that run, and the few that wait behind them, may end.
        while any(slot.inflight for slot in self._slots):
            self._change.clear()
            try:
                await asyncio.wait_for(self._change.wait(), max(0.0, min(self._deadline - time.monotonic(), 3600.0)))
            except TimeoutError:
                if time.monotonic() >= self._deadline:
                    break
        self._desk.look()
        self._tell()
        # Told of before the workers are killed: what dies now was given back, and is not lost.
        unfinished = self._unfinished()
        for job in self._delayed.values():
            self._stop_timer(job)
        await self._dismiss()
        return unfinished

    def _unfinished(self) -> list[UUID]:
        jobs = [job for slot in self._slots for job in slot.inflight.values()]
        jobs += [*self._again, *self._delayed.values(), *([self._held] if self._held else [])]
        return [job.call.key for job in jobs]

    async def _dismiss(self) -> None:
        """End all workers: idle ones in peace, the others at once."""
        self._desk.stop()
        for slot in self._slots:
            if slot.process is None and slot.task is not None:
                slot.task.cancel()  # it waits to start one
        await asyncio.gather(*(slot.task for slot in self._slots if slot.task), return_exceptions=True)
        await asyncio.gather(*self._removals, return_exceptions=True)
        processes = [slot.process for slot in self._slots if slot.process is not None] + list(self._leaving)
        for slot in self._slots:
            if slot.succession is not None and slot.succession.process is not None:
                processes.append(slot.succession.process)
                slot.succession.process.kill()
            if slot.process is not None and (slot.inflight or slot.worker is None):
                slot.process.kill()
            elif slot.worker is not None:
                slot.worker.send(Work([], [], leave=True))
            for job in slot.inflight.values():
                self._stop_timer(job)
            slot.inflight = {}
        for limit_s in (_LEAVE_S, _DIE_S):
            try:
                async with asyncio.timeout(limit_s):
                    for process in processes:
                        await process.ended.wait()
            except TimeoutError:
                for process in processes:
                    process.kill()


def _ignore(_: Output) -> None:
    """Nobody keeps it."""


def _sandbox_name(job: Job) -> str:
    """The directory of this attempt: what an earlier one left, or is still being removed, is not met again."""
    return str(job.call.key) if job.attempts == 1 else f"{job.call.key}-{job.attempts}"


def _cancelled() -> TaskCancelled:
    return TaskCancelled("the task was cancelled")


def _lost_text(job: Job, how: str) -> str:
    tries = job.losses + 1
    if not job.call.options.rerun_on_loss:
        return f"the worker process {how} while the task ran, and the task must not run twice (rerun_on_loss is off)"
    return f"the worker process {how} while the task ran; it was tried {tries} times"
