"""A bundle in a pool's hands: from the moment it is taken until all its results are stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from headrace.bus.data.failures import encode_failure, of_error
from headrace.bus.errors import TaskError
from headrace.bus.names import Address
from headrace.bus.tasks.bundles import Bundle, TaskResult
from headrace.bus.tasks.control import Control
from headrace.bus.tasks.results import StoredPart


@dataclass(slots=True, kw_only=True)
class Held:
    """One bundle. Its results are stored as parts 0, 1, 2, …, one at a time, so that they are a log without gaps.

    A task is `open` until a result of it is stored, by us or by whoever held the bundle before.
    """

    address: Address
    ack_subject: str
    bundle: Bundle
    sequence: int
    stored_ns: int
    taken_at: float
    open: set[int]
    size: int
    unstored: dict[int, TaskResult] = field(default_factory=dict)
    next_part: int = 0
    storing: bool = False
    control: Control = field(default_factory=Control)
    counted: int = 0
    """How many of its tasks are in its lane's account."""
    pool: bytes = b""
    """The process that holds it."""
    is_suspect: bool = False
    """Whether it comes so often that the starts of its tasks are stored."""
    losses: defaultdict[int, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    """For each of its tasks the other processes that had stored its start."""
    to_note: list[int] = field(default_factory=list)
    """Tasks whose starts are to be stored."""
    noted: set[int] = field(default_factory=set)
    """Tasks whose starts we have stored."""
    to_excuse: list[int] = field(default_factory=list)
    """Tasks that started, and are not lost, but handed back."""

    @property
    def complete(self) -> bool:
        """Whether every task has a stored result."""
        return not self.open

    @property
    def has_news(self) -> bool:
        """Whether something is to be stored."""
        return bool(self.unstored or self.to_note or self.to_excuse)

    @property
    def left(self) -> int:
        """How many tasks have no result, stored or not."""
        return len(self.open) - len(self.unstored)

    @property
    def stored_at(self) -> float:
        """When it was stored: unix seconds, the server's clock."""
        return self.stored_ns / 1e9

    def ends(self) -> set[float]:
        """When the patience of tasks ends: unix seconds, the server's clock."""
        limits_s = (options.queue_timeout_s for options in self.bundle.options)
        return {self.stored_at + limit_s for limit_s in limits_s if limit_s is not None}

    def late(self, now: float) -> dict[int, float]:
        """Unfinished tasks that may not start any more when it is `now` at the server, with their limits in seconds."""
        if not any(end <= now for end in self.ends()):
            return {}
        unfinished, late = set(self.unfinished()), {}
        for task in self.bundle.tasks:
            limit_s = self.bundle.options[task.options].queue_timeout_s
            if limit_s is not None and self.stored_at + limit_s <= now and task.index in unfinished:
                late[task.index] = limit_s
        return late

    def add(self, result: TaskResult) -> bool:
        """Take a result that is to be stored; whether it is news."""
        if result.index not in self.open or result.index in self.unstored:
            return False
        self.unstored[result.index] = result
        return True

    def stored(self, indices: list[int]) -> None:
        """These tasks have a stored result now, in the part that was the next."""
        self.next_part += 1
        self.open.difference_update(indices)
        for index in indices:
            self.unstored.pop(index, None)

    def merge(self, parts: Iterable[StoredPart]) -> None:
        """These parts were stored by somebody, the next one first."""
        for part in parts:
            self.stored([result.index for result in part.part.results])
            if part.part.pool == self.pool:
                continue
            for index in part.part.started:
                self.losses[index].add(part.part.pool)
            for index in part.part.excused:
                self.losses[index].discard(part.part.pool)

    def functions_of(self, results: list[TaskResult]) -> tuple[list[UUID], list[int]]:
        """The functions of the bundle and, where there are several, the place in them of each of these results'."""
        functions = [use.id for use in self.bundle.functions]
        if len(functions) < 2:
            return functions, []
        places = {task.index: task.function for task in self.bundle.tasks}
        return functions, [places[result.index] for result in results]

    def unfinished(self) -> list[int]:
        """Tasks without any result, stored or not."""
        return [index for index in self.open if index not in self.unstored]


def failed(index: int, error: TaskError, *, taken_at: float, state: str = "failed", attempts: int = 0) -> TaskResult:
    """The result of a task that did not come to run, or must not run again."""
    encoding, value = encode_failure(of_error(error))
    return TaskResult(index, state, encoding, value, taken_at=taken_at, attempts=attempts)
