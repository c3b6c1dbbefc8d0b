"""The future of one task."""

from __future__ import annotations

import concurrent.futures
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, overload
from uuid import UUID

from headrace.bus.ids import split_task_id, submitted_at, task_id
from headrace.sdk.errors import NotFound
from headrace.sdk.light_future import LOCK, LightFuture
from headrace.sdk.logs import LogChunk, StreamName

_SENT_LOOK_S = 0.2
_MOMENTS = struct.Struct("6d")


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


class Owner(Protocol):
    """Who wants to know that a future has ended."""

    def ended(self, future: TaskFuture) -> None: ...


class LogSource(Protocol):
    """Who has what tasks print: a client."""

    @overload
    def task_logs(self, task_id: UUID, *, follow: Literal[False] = False, stream: StreamName | None = None) -> str: ...

    @overload
    def task_logs(
        self, task_id: UUID, *, follow: Literal[True], stream: StreamName | None = None
    ) -> Iterator[LogChunk]: ...


class TaskFuture(LightFuture):
    """A `concurrent.futures.Future` that knows its task.

    `task_id` is set from the beginning (None only when the submission failed before there was a task). `times` and
    `attempts` are set with the result. Works with `as_completed`, `wait` and `asyncio.wrap_future`.
    """

    __slots__ = (
        "_bundle",
        "_cancel_told",
        "_index",
        "_logs",
        "_moments",
        "_on_cancel",
        "_owner",
        "_plain_only",
        "attempts",
        "endpoint_id",
        "function_id",
        "task_group_id",
    )

    def __init__(self) -> None:
        super().__init__()
        self._bundle: UUID | None = None
        self._index = 0
        self.function_id: UUID | None = None
        self.endpoint_id: UUID | None = None
        self.task_group_id: UUID | None = None
        self.attempts = 0
        self._moments: bytes | None = None
        self._on_cancel: Callable[[TaskFuture, bool], None] | None = None
        self._owner: Owner | None = None
        self._logs: LogSource | None = None
        self._cancel_told = False
        self._plain_only = False

    @property
    def task_id(self) -> UUID | None:
        """The task's id."""
        # Put together when it is asked for: bundle and index are there anyway, an id of its own is 100 bytes.
        return None if self._bundle is None else task_id(self._bundle, self._index)

    @task_id.setter
    def task_id(self, task: UUID) -> None:
        self._bundle, self._index = split_task_id(task)

    def locate(self, bundle: UUID, index: int) -> None:
        """Set the task's id: that of its bundle and its place in there."""
        self._bundle, self._index = bundle, index

    @property
    def times(self) -> TaskTimes | None:
        """When what happened to the task; None before its result is here."""
        task = self.task_id
        if self._moments is None or task is None:
            return None
        stored_at, taken_at, started_at, ended_at, result_stored_at, delivered_at = _MOMENTS.unpack(self._moments)
        return TaskTimes(
            submitted_at=submitted_at(task, stored_at),
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

    @overload
    def logs(self, *, follow: Literal[False] = False, stream: StreamName | None = None) -> str: ...

    @overload
    def logs(self, *, follow: Literal[True], stream: StreamName | None = None) -> Iterator[LogChunk]: ...

    def logs(self, *, follow: bool = False, stream: StreamName | None = None) -> str | Iterator[LogChunk]:
        """What the task has printed so far (all of it once the result is here), as `Client.task_logs` gives it.

        follow: an iterator instead, over `LogChunk`s as they are printed, until the task has ended; it blocks while
            there is nothing new.
        stream: only `stdout` or `stderr`. A task that has not been sent yet has printed nothing. Raises `ClientError`.
        """
        if follow:
            return self._follow(stream)
        task = self.task_id
        if self._logs is None or task is None:
            return ""
        try:
            return self._logs.task_logs(task, stream=stream)
        except NotFound:
            return ""

    def _follow(self, stream: StreamName | None) -> Iterator[LogChunk]:
        while self._logs is not None and (task := self.task_id) is not None:
            try:
                yield from self._logs.task_logs(task, follow=True, stream=stream)
                return
            except NotFound:
                if self.done():
                    return
            # It is on its way, or waits in this process.
            concurrent.futures.wait([self], timeout=_SENT_LOOK_S)

    def begin(self) -> bool:
        """Note that the task runs; False when the future has ended, perhaps by a `cancel` at this very moment."""
        with LOCK:
            return not self.done() and (self.running() or self.set_running_or_notify_cancel())

    def note_times(self, *moments: float) -> None:
        """Keep when the bundle was stored, taken, the task started, ended, the result stored and delivered."""
        self._moments = _MOMENTS.pack(*moments)

    def _invoke_callbacks(self) -> None:
        # The owner first: who is told next may submit, and finds the room that this task has left.
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.ended(self)
        super()._invoke_callbacks()

    def _tell_cancel(self) -> None:
        # As an executor does for its own futures: those who wait in `wait` and `as_completed` are told now. Once: two
        # threads may cancel at the same time, and the second telling is an error.
        with LOCK:
            told, self._cancel_told = self._cancel_told, True
            if not told:
                self.set_running_or_notify_cancel()


def failed_future(error: BaseException) -> TaskFuture:
    """A future that has failed already."""
    future = TaskFuture()
    future.set_exception(error)
    return future
