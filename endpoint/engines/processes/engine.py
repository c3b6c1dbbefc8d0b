"""Runs calls on worker processes of this machine, which are reused, watched and replaced.

Short calls are sent in frames worth about five milliseconds, with up to two frames on their way to a worker, so that
none waits for the engine; calls that take long, or whose duration nobody knows yet, go one at a time to idle workers.
A worker that dies takes only the call that it ran with it: two counters in shared memory say which one that was.
A worker that may run only so many calls has a successor that was started before its last one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from uuid import UUID

from headrace.bus.data.encodings import INLINE_BYTES
from headrace.bus.errors import TaskError, TaskExpired, TaskLost
from headrace.endpoint.engines.containers.runtimes import Container
from headrace.endpoint.engines.engine import FinalState, Load, OutcomesCallback, Output, OutputCallback, Source
from headrace.endpoint.engines.processes.backlog import Backlog
from headrace.endpoint.engines.processes.cgroups import MemoryGroups
from headrace.endpoint.engines.processes.crew import Crew
from headrace.endpoint.engines.processes.dealing import pack, stage
from headrace.endpoint.engines.processes.endings import Endings, cancelled
from headrace.endpoint.engines.processes.losses import Losses
from headrace.endpoint.engines.processes.output import PRINTED_LIMIT
from headrace.endpoint.engines.processes.output_desk import OutputDesk
from headrace.endpoint.engines.processes.slots import Job, Slot
from headrace.endpoint.engines.processes.worker_process import WorkerCommand, WorkerProcess
from headrace.endpoint.worker.frames import RAISED, Report, ReportItem
from headrace.endpoint.worker.limits import WorkerLimits
from headrace.endpoint.worker.sandbox import SandboxRoot

logger = logging.getLogger(__name__)

_STALL_S = 0.05
_MOST_FAILED_AT_ONCE = 1_000
_SETTLED_S = 5.0


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
        accelerators: Sequence[str] = (),
        setup: str = "",
        container: Container | None = None,
    ) -> None:
        """`environment`, `directory` and `output` (a descriptor for what calls print) are the workers'; None inherits.
        `spool` is where payloads of more than `inline_bytes` lie; None sends everything to the workers and back.

        `on_output` gets what calls print instead of `output`, `most_output_bytes` of each run of a call.
        `memory_groups` is where the memory limit is put in force; without it workers limit themselves.
        Each worker sees its own of the `accelerators`, if any. `setup` are shell lines to run before a worker starts.
        `container` is what each worker is put into.

        Raises `ValueError` for fewer than one worker.
        """
        if workers < 1:
            raise ValueError(f"an engine needs at least one worker, not {workers}")
        command = WorkerCommand(
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
            setup=setup,
            container=container,
        )
        share = command.limits.max_tasks or math.inf
        self._succession_at = (command.limits.max_tasks or 0) // 10
        self._keeps_output = command.keeps_output
        sandboxes = SandboxRoot.of(command.limits)
        self._in_sandboxes = sandboxes is not None
        self._slots = [Slot(number) for number in range(workers)]
        self._desk = OutputDesk(self._slots, on_output or _ignore, most_output_bytes)
        self._endings = Endings(self._desk, on_outcomes)
        self._losses = Losses(self._endings, self._desk, sandboxes, most_losses=most_losses)
        self._backlog = Backlog(source, on_ready=self.wake)
        self._crew = Crew(
            self._slots,
            command,
            self._desk,
            on_report=self._on_report,
            on_death=self._on_death,
            on_failure=self.wake,
            accelerators=accelerators,
            share=share,
            most_start_failures=most_start_failures,
        )
        self._stopping: asyncio.Task[list[UUID]] | None = None
        self._deadline = math.inf
        self._is_dealing = False
        self._change = asyncio.Event()

    # The seam

    async def start(self) -> None:
        """Start the workers. Returns at once; calls are pulled as soon as one is up."""
        if self._keeps_output:
            self._desk.start()
        self._crew.start()

    def wake(self) -> None:
        """Say that the source may have calls."""
        self._deal()
        self._tell()

    def cancel(self, keys: Iterable[UUID], *, force: bool = False) -> None:
        """Cancel calls that have not started; with `force` kill the workers that run the others.

        A call on its way to a busy worker counts as running.
        """
        wanted = frozenset(keys)
        for job in self._backlog.remove(wanted):
            self._endings.end_cancelled(job)
        if force:
            for slot in self._slots:
                for job in slot.inflight.values():
                    job.force = job.force or job.call.key in wanted
                self._kill_if_forced(slot)
        self._tell()

    def take_back(self, keys: Iterable[UUID]) -> list[UUID]:
        """Give back calls that were never started; not those that are on their way to a worker."""
        return [job.call.key for job in self._backlog.remove_fresh(frozenset(keys))]

    async def stop(self, *, grace_s: float) -> list[UUID]:
        """Stop in order; a second call, with a shorter grace, hurries the first one."""
        self._deadline = min(self._deadline, time.monotonic() + grace_s)
        self._change.set()
        if self._stopping is None:
            self._crew.is_closed = True
            self._stopping = asyncio.get_running_loop().create_task(self._stop(), name="stop-engine")
        return await asyncio.shield(self._stopping)

    def load(self) -> Load:
        """How busy it is."""
        up = [slot for slot in self._slots if slot.worker is not None]
        busy = sum(1 for slot in up if slot.inflight)
        inside = sum(len(slot.inflight) for slot in up) + len(self._backlog)
        return Load(workers=len(up), busy=busy, queued=inside - busy)

    def running(self) -> list[UUID]:
        """The calls that run at this moment."""
        jobs = (slot.inflight.get(slot.worker.running) for slot in self._slots if slot.worker is not None)
        return [job.call.key for job in jobs if job is not None]

    def pids(self) -> list[int]:
        """The processes of the workers that are up; each leads a process group of its own."""
        return self._crew.pids()

    # Dealing out calls

    def _deal(self) -> None:
        """Give every worker that has room something to do, as evenly as the estimates allow."""
        if self._is_dealing or self._stopping is not None:
            return
        self._is_dealing = True
        try:
            room = [(slot.backlog_s, slot.number) for slot in self._slots if slot.has_room()]
            if room:
                stage(self._slots, room, self._backlog)
            elif self._crew.broken:
                self._fail_pending()
        except Exception:
            logger.exception("The source failed to hand out a call; it is asked again the next time.")
        finally:
            for slot in self._slots:
                if slot.staged:
                    self._send(slot)
            self._is_dealing = False

    def _send(self, slot: Slot) -> None:
        assert slot.worker is not None  # noqa: S101 - only a slot with room was staged for
        for job in slot.staged:
            if job.alone or slot.is_exclusive:  # it starts now, there is nothing before it
                self._start_timer(slot, job)
        work = pack(slot, in_sandboxes=self._in_sandboxes)
        self._desk.hurry()
        slot.worker.send(work)
        if slot.share <= self._succession_at and slot.succession is None:
            self._crew.prepare_succession(slot)

    def _fail_pending(self) -> None:
        for _ in range(_MOST_FAILED_AT_ONCE):
            job = self._backlog.next_job()
            if job is None:
                return
            broken = TaskLost(f"no worker can be started on this endpoint: {self._crew.broken}")
            self._endings.end(job, "failed", broken)
        asyncio.get_running_loop().call_soon(self.wake)

    # What workers report

    def _on_report(self, slot: Slot, worker: WorkerProcess, report: Report) -> None:
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

    def _on_ended(self, slot: Slot, job: Job, item: ReportItem) -> None:
        _, kind, _, _, _, duration_s = item
        slot.backlog_s -= job.worth_s
        job.function.note(duration_s)
        if job.timer is not None:
            job.stop_timer()
        if kind == RAISED and job.raised < job.call.options.max_retries and not job.force:
            if job.output is not None:
                self._desk.finish(job, slot.name)
            self._backlog.retry(job)
        else:
            self._endings.end_reported(slot, job, item)

    def _settle(self, slot: Slot) -> None:
        """Bring the slot's accounts up to date after calls left it."""
        if not slot.inflight and slot.share <= 0:
            self._crew.retire(slot)
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
        for job in jobs:
            slot.backlog_s -= job.worth_s
            job.stop_timer()
            if job.force:
                self._endings.end_cancelled(job)
        self._backlog.put_first([job for job in jobs if not job.force])

    # Ends that are not the worker's

    def _tell(self) -> None:
        self._endings.tell()
        self._change.set()

    def _start_timer(self, slot: Slot, job: Job) -> None:
        limit_s = job.call.options.task_timeout_s
        job.started_at = time.time()
        if limit_s is not None:
            job.timer = asyncio.get_running_loop().call_later(limit_s, self._on_time_over, slot, job)

    def _on_time_over(self, slot: Slot, job: Job) -> None:
        job.timer = None
        limit_s = job.call.options.task_timeout_s
        error = TaskExpired(f"the task ran longer than its limit of {limit_s:g} s (task_timeout_s) and was stopped")
        self._kill_for(slot, job, "expired", error)

    def _kill_if_forced(self, slot: Slot) -> None:
        job = slot.inflight.get(slot.worker.running) if slot.worker else None
        if job is not None and job.force:
            self._kill_for(slot, job, "cancelled", cancelled())

    def _kill_for(self, slot: Slot, job: Job, state: FinalState, error: TaskError) -> None:
        if slot.verdict is None and slot.worker is not None:
            slot.verdict = (job, state, error)
            slot.worker.kill()

    # Workers that die

    def _on_death(self, slot: Slot, worker: WorkerProcess) -> None:
        how, jobs, verdict, was_ready = worker.explain_end(), slot.inflight, slot.verdict, slot.worker is not None
        self._desk.on_death(slot, worker)
        returned = self._losses.survivors(slot, worker)
        is_useless = not was_ready or (
            not jobs and not slot.has_worked and time.monotonic() - worker.began_at < _SETTLED_S
        )
        slot.clear()
        self._put_back(returned, slot)
        slot.backlog_s = 0.0
        if self._stopping is None and is_useless and slot.succession is None:
            self._crew.fail(slot, f"the worker process {how} before it was of use; see the log of the endpoint")
        else:
            if verdict is None and self._stopping is None:
                logger.warning("A worker %s; it is being replaced.", how, extra={"action": "worker_died"})
            self._crew.succeed(slot)
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
        jobs = [job for slot in self._slots for job in slot.inflight.values()] + self._backlog.close()
        self._desk.stop()
        await self._losses.finish()
        await self._crew.dismiss()
        return [job.call.key for job in jobs]


def _ignore(_: Output) -> None:
    """Nobody keeps it."""
