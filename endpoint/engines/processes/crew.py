"""The workers of an engine: started, replaced when they die, succeeded when they have done their share, sent home."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from headrace.endpoint.engines.processes.output_desk import OutputDesk
from headrace.endpoint.engines.processes.slots import Slot, Succession
from headrace.endpoint.engines.processes.worker_process import WorkerCommand, WorkerProcess
from headrace.endpoint.worker.frames import Report, Work

if TYPE_CHECKING:
    from headrace.endpoint.engines.containers.check import ContainerCheck
    from headrace.endpoint.engines.containers.runtimes import Container

logger = logging.getLogger(__name__)

_FIRST_BACK_OFF_S = 0.1
_LONGEST_BACK_OFF_S = 5.0
_LEAVE_S = 1.0
_DIE_S = 2.0
_FIRST_CHECK_S = 1.0
_LONGEST_CHECK_S = 30.0


class Crew:
    """Keeps a worker in each slot.

    `on_report` gets what workers report that are up. `on_death` is told of a dead one before it is replaced: it calls
    `succeed` or `fail`. `on_failure` is called when a worker cannot be used; perhaps none can (`broken`).
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        command: WorkerCommand,
        desk: OutputDesk,
        *,
        on_report: Callable[[Slot, WorkerProcess, Report], None],
        on_death: Callable[[Slot, WorkerProcess], None],
        on_failure: Callable[[], None],
        accelerators: Sequence[str],
        share: float,
        most_start_failures: int,
    ) -> None:
        self._slots = slots
        self._command = command
        self._worker_of: Callable[..., WorkerProcess] = WorkerProcess
        self._check: ContainerCheck | None = None
        if command.container is not None:
            self._use(command.container)
        self._desk = desk
        self._report = on_report
        self._death = on_death
        self._failure = on_failure
        self._accelerators = accelerators
        self._share = share
        self._most_start_failures = most_start_failures
        self._leaving: set[WorkerProcess] = set()
        self._host = socket.gethostname()
        self.is_closed = False
        """Whether nobody is replaced any more."""
        self.broken = ""
        """Why no worker can be used, empty while one can."""

    def start(self) -> None:
        """Start a worker in each place."""
        for slot in self._slots:
            self._fill(slot, 0.0)

    def _use(self, container: Container) -> None:
        # Most pools have none, and should not load this.
        from headrace.endpoint.engines.processes.contained_worker import ContainedWorker, container_check

        self._worker_of = functools.partial(ContainedWorker, container=container)
        self._check = container_check(self._command, container)

    def _put_off(self, slot: Slot, problem: str) -> None:
        """Fill a place later, as no worker can be started in a container now."""
        slot.failures += 1
        after_s = min(_FIRST_CHECK_S * 2 ** min(slot.failures - 1, 10), _LONGEST_CHECK_S)
        if self.broken != problem:
            logger.error(
                "No worker can be started: %s. Tasks fail with this; it is tried again from time to time.",
                problem,
                extra={"action": "containers_unusable"},
            )
        self.broken = problem
        if not self.is_closed:
            self._fill(slot, after_s)
        self._failure()

    def pids(self) -> list[int]:
        """The processes of the workers that are up, or leave."""
        return [slot.worker.pid for slot in self._slots if slot.worker is not None] + [w.pid for w in self._leaving]

    def prepare_succession(self, slot: Slot) -> None:
        """Start the worker that takes the place of one that has nearly done its share of calls."""
        slot.succession = Succession()
        slot.task = asyncio.get_running_loop().create_task(
            self._start_successor(slot, slot.succession), name=f"start-successor-{slot.number}"
        )

    def retire(self, slot: Slot) -> None:
        """Let a worker go that has done its share, and put its successor in its place."""
        worker = slot.worker
        assert worker is not None  # noqa: S101 - who is not here has no share
        worker.send(Work([], [], leave=True))
        self._leaving.add(worker)
        # Threads that a call left behind may keep it from leaving.
        asyncio.get_running_loop().call_later(_LEAVE_S, worker.kill)
        self.succeed(slot)

    def succeed(self, slot: Slot) -> None:
        """Fill a place whose worker is gone, with its successor if there is one."""
        succession, slot.succession = slot.succession, None
        slot.clear()
        if self.is_closed:
            if succession is not None and succession.process is not None:
                self._leaving.add(succession.process)
                succession.process.kill()
        elif succession is None or succession.process is None:
            self._fill(slot, 0.0)
        else:
            slot.process = succession.process
            if succession.is_ready:
                self._on_ready(slot, succession.process)

    def fail(self, slot: Slot, problem: str) -> None:
        """Fill a place whose worker could not be used, after a while."""
        slot.failures += 1
        after_s = min(_FIRST_BACK_OFF_S * 2 ** min(slot.failures - 1, 10), _LONGEST_BACK_OFF_S)
        logger.error(
            "A worker cannot be used: %s; trying again in %.1f s.",
            problem,
            after_s,
            extra={"action": "worker_start_failed", "failures": slot.failures},
        )
        if slot.failures >= self._most_start_failures and not any(s.worker for s in self._slots):
            self.broken = problem
        if not self.is_closed:
            self._fill(slot, after_s)
        self._failure()

    async def dismiss(self) -> None:
        """End all workers: idle ones in peace, the others at once."""
        for slot in self._slots:
            if slot.process is None and slot.task is not None:
                slot.task.cancel()  # it waits to start one
        await asyncio.gather(*(slot.task for slot in self._slots if slot.task), return_exceptions=True)
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
                job.stop_timer()
            slot.inflight = {}
        for limit_s in (_LEAVE_S, _DIE_S):
            try:
                async with asyncio.timeout(limit_s):
                    for process in processes:
                        await process.ended.wait()
            except TimeoutError:
                for process in processes:
                    process.kill()
        if self._check is not None:
            await self._check.close()

    def _fill(self, slot: Slot, after_s: float) -> None:
        slot.task = asyncio.get_running_loop().create_task(
            self._start_worker(slot, after_s), name=f"start-worker-{slot.number}"
        )

    async def _start_worker(self, slot: Slot, after_s: float) -> None:
        await asyncio.sleep(after_s)
        problem = await self._check.problem() if self._check is not None else ""
        if problem:
            self._put_off(slot, problem)
            return
        worker = slot.process = self._new_worker(slot)
        try:
            await worker.start()
        except OSError as error:
            slot.process = None
            self.fail(slot, f"{self._command.python} cannot be started: {error}")

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

    def _new_worker(self, slot: Slot) -> WorkerProcess:
        command = self._command
        if self._accelerators:
            command = command.on_accelerator(self._accelerators[slot.number % len(self._accelerators)])
        return self._worker_of(
            command,
            on_report=lambda worker, report: self._on_report(slot, worker, report),
            on_end=lambda worker: self._on_end(slot, worker),
        )

    def _on_report(self, slot: Slot, worker: WorkerProcess, report: Report) -> None:
        if worker in self._leaving:
            return  # its minder had something to say that no longer matters
        if slot.succession is not None and worker is slot.succession.process:
            slot.succession.is_ready = True
            return
        if slot.worker is None:
            self._on_ready(slot, worker)
        self._report(slot, worker, report)

    def _on_ready(self, slot: Slot, worker: WorkerProcess) -> None:
        slot.worker = worker
        slot.share = self._share
        slot.name = f"{self._host}/{worker.pid}"
        self.broken = ""

    def _on_end(self, slot: Slot, worker: WorkerProcess) -> None:
        if worker in self._leaving:
            self._leaving.discard(worker)
            self._desk.on_death(slot, worker)
        elif slot.succession is not None and worker is slot.succession.process:
            slot.succession.process = None
            self._desk.on_death(slot, worker)
        else:
            self._death(slot, worker)
