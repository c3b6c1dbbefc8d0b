"""Bundling: tasks become bundles without waiting for more of them.

    idle        a task goes out at once, alone
    under load  what piles up while earlier bundles await their acks goes out together

A task knows its bundle, and so its id, from the moment it is added: bundles are cut when tasks come in, not when they
are sent. How many tasks a bundle may hold starts small and grows only while tasks are seen to be short, so that long
tasks are spread over all pools of an endpoint. Where very many wait for their results it may hold a small part of
them in any case: they cannot be spread so unevenly that it matters, and a queue of fewer messages is a lighter one.

What is not stored yet is bounded, in tasks and in bytes: a submission that finds no room waits, or is refused.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import msgspec

from headrace.bus.data.payloads import Source
from headrace.bus.ids import new_bundle_id, split_task_id
from headrace.bus.tasks.bundles import FunctionUse, Task, TaskOptions
from headrace.sdk.errors import SubmissionRefused
from headrace.sdk.future import TaskFuture
from headrace.sdk.limits import BLOCK, MOST_UNSENT_BYTES, MOST_UNSENT_TASKS, Room, WhenFull

CLOSED = "the client was closed before the task was sent"

FIRST_CAP = 4
LARGEST_CAP = 128
BUNDLE_BYTES = 512 * 1024
BUNDLE_WORTH_S = 0.02
"""A bundle holds at most about so much work."""

_PART_OF_BACKLOG = 128
"""A bundle may hold one in so many of the tasks that have no result, however long they run."""

_TASK_BYTES = 64
_MOST_IN_FLIGHT = 48
_MOST_BYTES_IN_FLIGHT = 8 * 1024 * 1024
"""More only waits in the NATS server, in memory that is new: with 24 MB it had half as much again, and was slower."""
_OPEN_IN_FLIGHT = 2
"""With fewer bundles than this in flight a bundle that is not full goes out as well."""


class NewTask(msgspec.Struct):
    """A task that has no bundle yet, and the future that gets its result. A struct: made in a third of the time."""

    use: FunctionUse
    options: TaskOptions
    encoding: int
    arguments: bytes
    future: TaskFuture
    sources: Sequence[Source] = ()
    """What has to be uploaded first."""


@dataclass(slots=True)
class Draft:
    """A bundle in the making, and after that the bookkeeping of one under way."""

    id: UUID
    tasks: list[Task | None] = field(default_factory=list)
    futures: list[TaskFuture | None] = field(default_factory=list)
    functions: dict[FunctionUse, int] = field(default_factory=dict)
    options: dict[TaskOptions, int] = field(default_factory=dict)
    size: int = 0
    live: int = 0
    """How many tasks it has that were not withdrawn."""
    sources: list[Source] = field(default_factory=list)
    """What has to be in the object store before it is sent."""
    last: tuple[FunctionUse, TaskOptions, int, int] | None = None
    """What the last task had, and its places in the tables: nearly always what the next one has, too."""

    def add(self, task: NewTask) -> None:
        index = len(self.tasks)
        task.future.locate(self.id, index)
        last = self.last
        if last is None or task.use is not last[0] or task.options is not last[1]:
            function = self.functions.setdefault(task.use, len(self.functions))
            options = self.options.setdefault(task.options, len(self.options))
            last = self.last = task.use, task.options, function, options
        self.tasks.append(Task(index, last[2], last[3], task.encoding, task.arguments))
        self.futures.append(task.future)
        self.size += len(task.arguments) + _TASK_BYTES
        self.live += 1
        if task.sources:
            self.sources.extend(task.sources)

    def withdraw(self, index: int) -> int:
        """Take a task out; gives its size. 0 when it was not there."""
        task = self.tasks[index]
        if task is None:
            return 0
        self.tasks[index] = self.futures[index] = None
        size = len(task.arguments) + _TASK_BYTES
        self.size -= size
        self.live -= 1
        return size

    def live_tasks(self) -> list[Task]:
        """The tasks that were not cancelled in the meantime."""
        return [task for task in self.tasks if task is not None]

    def pending(self) -> Iterator[TaskFuture]:
        """The futures that still wait."""
        return (future for future in self.futures if future is not None and not future.done())


class Outbox:
    """Drafts on their way out. `add` and `withdraw` may be called from any thread; `send` is called on the loop.

    `send(draft)` must end in `sent(draft)`; `wake` asks the loop to call `pump` soon; `begun` is told of
    each new bundle, `backlog` says how many tasks that were sent wait for results.
    """

    def __init__(
        self,
        endpoint: UUID,
        *,
        send: Callable[[Draft], None],
        wake: Callable[[], None],
        most_per_bundle: int = LARGEST_CAP,
        begun: Callable[[], None] = lambda: None,
        backlog: Callable[[], int] = lambda: 0,
        most_tasks: int = MOST_UNSENT_TASKS,
        most_bytes: int = MOST_UNSENT_BYTES,
    ) -> None:
        self.room = Room(self._full_text, most_tasks=most_tasks, most_bytes=most_bytes)
        """What is not stored yet, and the bound for it."""
        self._endpoint = endpoint
        self._most = min(LARGEST_CAP, most_per_bundle)
        self._send = send
        self._wake = wake
        self._begun = begun
        self._backlog = backlog
        self._lock = threading.Lock()
        self._open: Draft | None = None
        self._full: deque[Draft] = deque()
        self._unsent: dict[UUID, Draft] = {}
        self._unsent_tasks = 0
        self._in_flight = 0
        self._bytes_in_flight = 0
        self._woken = False
        self._cap = min(FIRST_CAP, self._most)
        self._closed = False
        self._why_closed = CLOSED

    @property
    def cap(self) -> int:
        """How many tasks a bundle may hold at this moment."""
        return max(self._cap, min(self._most, (self._backlog() + self._unsent_tasks) // _PART_OF_BACKLOG))

    def add(self, task: NewTask, *, when_full: WhenFull = BLOCK, check: Callable[[], None] = lambda: None) -> None:
        """Put a task into a bundle, once there is room; gives its future its id.

        `check` is called while it waits, and may raise. Raises `QueueFull` as `when_full` says, and
        `SubmissionRefused` when the client was closed.
        """
        size = len(task.arguments) + _TASK_BYTES

        def look() -> None:
            self.check_open()
            check()

        self.room.take(size, when_full, look)
        try:
            woken = self._put(task)
        except BaseException:
            self.room.give(1, size)
            raise
        if not woken:
            self._wake()

    def _put(self, task: NewTask) -> bool:
        """Put a task into a bundle; whether the loop has been woken for it already."""
        with self._lock:
            self.check_open()
            draft = self._open
            if draft is not None and draft.size + len(task.arguments) > BUNDLE_BYTES:
                self._full.append(draft)
                draft = None
            if draft is None:
                draft = self._open = Draft(new_bundle_id(self._endpoint))
                self._unsent[draft.id] = draft
                self._begun()
            self._unsent_tasks += 1
            draft.add(task)
            if len(draft.tasks) >= self.cap or draft.size >= BUNDLE_BYTES:
                self._full.append(draft)
                self._open = None
            woken, self._woken = self._woken, True
            return woken

    def withdraw(self, future: TaskFuture) -> bool:
        """Take back a task that was not sent yet; whether there was one."""
        if future.task_id is None:
            return False
        bundle, index = split_task_id(future.task_id)
        with self._lock:
            draft = self._unsent.get(bundle)
            if draft is None:
                return False
            size = draft.withdraw(index)
        if size:
            self.room.give(1, size)
        return True

    def pump(self) -> None:
        """Send what may go out now. On the loop."""
        while (draft := self._next()) is not None:
            self._send(draft)

    def sent(self, draft: Draft) -> None:
        """A bundle was stored, or given up. On the loop."""
        with self._lock:
            self._in_flight -= 1
            self._bytes_in_flight -= draft.size
        self.room.give(draft.live, draft.size)
        self.pump()

    def learn(self, duration_s: float) -> None:
        """Take note of how long a task ran: short ones double the cap, longer ones bring it down at once."""
        worth = max(1, min(self._most, int(BUNDLE_WORTH_S / max(duration_s, 1e-6))))
        self._cap = worth if worth < self._cap else min(worth, self._cap * 2)

    def close(self, why: str = CLOSED) -> list[Draft]:
        """Take everything out that was not sent; from now on nothing more is taken in, and `why` is said."""
        with self._lock:
            self._why_closed = why
            self._closed = True
            drafts = list(self._unsent.values())
            self._unsent.clear()
            self._unsent_tasks = 0
            self._full.clear()
            self._open = None
        self.room.give(sum(draft.live for draft in drafts), sum(draft.size for draft in drafts))
        self.room.wake()
        return drafts

    def check_open(self) -> None:
        """Raises `SubmissionRefused` once it is closed."""
        if self._closed:
            raise SubmissionRefused(self._why_closed)

    def _full_text(self, tasks: int, size: int) -> str:
        return (
            f"{tasks} tasks ({size / 1e6:.1f} MB) for endpoint {self._endpoint} wait to be stored: they come faster"
            " than the bus takes them, or it is away"
        )

    def _next(self) -> Draft | None:
        with self._lock:
            self._woken = False
            if self._in_flight >= _MOST_IN_FLIGHT or self._bytes_in_flight >= _MOST_BYTES_IN_FLIGHT:
                return None
            if self._full:
                draft = self._full.popleft()
            elif self._open is not None and self._in_flight < _OPEN_IN_FLIGHT:
                draft, self._open = self._open, None
            else:
                return None
            del self._unsent[draft.id]
            self._unsent_tasks -= len(draft.tasks)
            self._in_flight += 1
            self._bytes_in_flight += draft.size
            return draft
