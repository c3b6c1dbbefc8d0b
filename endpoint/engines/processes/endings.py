"""How calls end: what a worker reports of them, or what the engine says instead."""

from __future__ import annotations

import logging
import time

from headrace.bus.data.failures import encode_failure, of_error
from headrace.bus.errors import TaskCancelled, TaskError
from headrace.endpoint.engines.engine import FinalState, Outcome, OutcomesCallback
from headrace.endpoint.engines.processes.output_desk import OutputDesk
from headrace.endpoint.engines.processes.slots import Job, Slot
from headrace.endpoint.worker.frames import SUCCEEDED, ReportItem

logger = logging.getLogger(__name__)


class Endings:
    """Makes outcomes, each with the end of its output, and tells of them many at a time."""

    def __init__(self, desk: OutputDesk, on_outcomes: OutcomesCallback) -> None:
        self._desk = desk
        self._on_outcomes = on_outcomes
        self._outcomes: list[Outcome] = []

    def end_reported(self, slot: Slot, job: Job, item: ReportItem) -> None:
        """End a call as its worker says."""
        _, kind, encoding, value, started_at, duration_s = item
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
                log_end=self._desk.finish(job, slot.name) if job.output is not None else None,
            )
        )

    def end(self, job: Job, state: FinalState, error: TaskError, *, slot: Slot | None = None) -> None:
        """End a call that its worker does not end; `slot` is where it ran, None if it did not run at last."""
        job.stop_timer()
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

    def end_cancelled(self, job: Job, *, slot: Slot | None = None) -> None:
        """End a call that was cancelled."""
        self.end(job, "cancelled", cancelled(), slot=slot)

    def tell(self) -> None:
        """Tell of what has ended since the last time."""
        if not self._outcomes:
            return
        outcomes, self._outcomes = self._outcomes, []
        try:
            self._on_outcomes(outcomes)
        except Exception:
            logger.exception("The outcomes of %d calls could not be taken; they are lost here.", len(outcomes))


def cancelled() -> TaskCancelled:
    """Why a cancelled call has no value."""
    return TaskCancelled("the task was cancelled")
