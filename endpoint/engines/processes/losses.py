"""What becomes of the calls that a worker had when it died: most run again, some must not."""

from __future__ import annotations

import asyncio

from headrace.bus.errors import TaskLost
from headrace.endpoint.engines.processes.endings import Endings
from headrace.endpoint.engines.processes.output_desk import OutputDesk
from headrace.endpoint.engines.processes.slots import Job, Slot
from headrace.endpoint.engines.processes.worker_process import WorkerProcess
from headrace.endpoint.worker.sandbox import SandboxRoot

_MOST_PUT_BACKS = 20


class Losses:
    """Decides for each call. `most_losses` is how many workers one may take with it; `sandboxes` is tidied up."""

    def __init__(self, endings: Endings, desk: OutputDesk, sandboxes: SandboxRoot | None, *, most_losses: int) -> None:
        self._endings = endings
        self._desk = desk
        self._sandboxes = sandboxes
        self._most_losses = most_losses
        self._removals: set[asyncio.Future[None]] = set()

    def survivors(self, slot: Slot, worker: WorkerProcess) -> list[Job]:
        """The calls of a dead worker that run again; the others have ended."""
        how, jobs, verdict = worker.explain_end(), slot.inflight, slot.verdict
        running, finished = worker.running, worker.finished
        if worker.exceeded_memory and jobs and not running:
            # The last result was too much for it, or taking in the largest arguments.
            running = finished if finished in jobs else max(jobs, key=lambda number: len(jobs[number].call.arguments))
        returned: list[Job] = []
        if running in jobs:
            jobs[running].started_at = worker.started_at
            self._remove_sandbox(jobs[running])
        for number, job in jobs.items():
            job.stop_timer()
            if verdict is not None and job is verdict[0]:
                self._endings.end(job, verdict[1], verdict[2], slot=slot)
            elif verdict is None and number == running:
                if self._survives(slot, job, how, is_final=worker.exceeded_memory):
                    returned.append(job)
            elif number <= finished and not job.call.options.rerun_on_loss:
                self._endings.end(job, "failed", TaskLost(_lost_text(job, how)), slot=slot)
            elif job.put_backs >= _MOST_PUT_BACKS:
                lost = f"its workers died {job.put_backs + 1} times; the last one {how}"
                self._endings.end(job, "failed", TaskLost(lost))
            else:
                job.put_backs += 1
                returned.append(job)
        return returned

    async def finish(self) -> None:
        """Wait until everything is tidied up."""
        await asyncio.gather(*self._removals, return_exceptions=True)

    def _survives(self, slot: Slot, job: Job, how: str, *, is_final: bool) -> bool:
        """Whether the call that ran when the worker died runs again."""
        if job.force:
            self._endings.end_cancelled(job, slot=slot)
        elif is_final:  # it would come to the same limit again
            self._endings.end(job, "failed", TaskLost(f"the worker process {how} while the task ran"), slot=slot)
        elif not job.call.options.rerun_on_loss or job.losses + 1 >= self._most_losses:
            self._endings.end(job, "failed", TaskLost(_lost_text(job, how)), slot=slot)
        else:
            self._desk.finish(job, slot.name)
            job.losses += 1
            job.alone = True
            return True
        return False

    def _remove_sandbox(self, job: Job) -> None:
        if self._sandboxes is not None:
            # It may hold much, and the engine has other workers to serve.
            removal = asyncio.get_running_loop().run_in_executor(None, self._sandboxes.remove, job.sandbox)
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)


def _lost_text(job: Job, how: str) -> str:
    tries = job.losses + 1
    if not job.call.options.rerun_on_loss:
        return f"the worker process {how} while the task ran, and the task must not run twice (rerun_on_loss is off)"
    return f"the worker process {how} while the task ran; it was tried {tries} times"
