"""The future of one task."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from headrace.bus.ids import submitted_at


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTimes:
    """When what happened to a task, in unix seconds; 0.0 where it did not come so far.

    submitted_at, delivered_at: by the clock of whoever submitted it, and of whoever has this future.
    stored_at, result_stored_at: by the NATS server's clock. taken_at, started_at, ended_at: by the endpoint's.
    """

    submitted_at: float
    stored_at: float
    taken_at: float
    started_at: float
    ended_at: float
    result_stored_at: float
    delivered_at: float


class TaskFuture(concurrent.futures.Future[Any]):
    """A `concurrent.futures.Future` that knows its task.

    `task_id` is set from the beginning (None only when the submission failed before there was a task). `times` and
    `attempts` are set with the result. Works with `as_completed`, `wait` and `asyncio.wrap_future`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.task_id: UUID | None = None
        self.function_id: UUID | None = None
        self.endpoint_id: UUID | None = None
        self.task_group_id: UUID | None = None
        self.attempts = 0
        self._moments: tuple[float, float, float, float, float, float] | None = None
        self._on_cancel: Callable[[TaskFuture, bool], None] | None = None
        self._cancel_told = False

    @property
    def times(self) -> TaskTimes | None:
        """When what happened to the task; None before its result is here."""
        if self._moments is None or self.task_id is None:
            return None
        stored_at, taken_at, started_at, ended_at, result_stored_at, delivered_at = self._moments
        return TaskTimes(
            submitted_at=submitted_at(self.task_id),
            stored_at=stored_at,
            taken_at=taken_at,
            started_at=started_at,
            ended_at=ended_at,
            result_stored_at=result_stored_at,
            delivered_at=delivered_at,
        )

    def cancel(self, *, force: bool = False) -> bool:
        """Cancel the task if it is not known to run yet; with `force`, stop it even then.

        True when the future is cancelled. A task that was sent is cancelled wherever it is (bus, queue of the pool);
        if it had started in the meantime, it runs on without `force`, and its result is dropped.
        """
        if force and self.running():
            if self._on_cancel is not None:
                self._on_cancel(self, True)
                return True
            return False
        if not super().cancel():
            return False
        self._tell_cancel()
        if self._on_cancel is not None:
            self._on_cancel(self, force)
        return True

    def begin(self) -> bool:
        """Note that the task runs; False when the future has ended, perhaps by a `cancel` at this very moment."""
        with self._condition:
            return not self.done() and (self.running() or self.set_running_or_notify_cancel())

    def _tell_cancel(self) -> None:
        # As an executor does for its own futures: those who wait in `wait` and `as_completed` are told now. Once: two
        # threads may cancel at the same time, and the second telling is an error.
        with self._condition:
            told, self._cancel_told = self._cancel_told, True
            if not told:
                self.set_running_or_notify_cancel()


def failed_future(error: BaseException) -> TaskFuture:
    """A future that has failed already."""
    future = TaskFuture()
    future.set_exception(error)
    return future
