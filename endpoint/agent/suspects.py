"""Calls that may be what kills the pool: a function can do that each time, and would run again for ever.

Nobody outside knows which call it was, and delivery counts are hints. So when a bundle comes for the third time, the
start of each of its calls is stored before it starts, in its result log. What started so, and was lost with its pool,
counts; a call that was lost twice so waits until no other such one is under way here, so that innocent neighbours are
not lost with the one that kills; and one that was lost four times is given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Final
from uuid import UUID

from headrace.bus.errors import TaskLost
from headrace.bus.ids import split_task_id, task_id
from headrace.endpoint.agent.held import Held
from headrace.endpoint.agent.result_log import ResultLog
from headrace.endpoint.engines.engine import Call

TRUSTED_DELIVERIES: Final = 2
"""So often a bundle is run without storing what starts."""
ALONE_AFTER: Final = 2
"""So many losses of a call that had stored its start make it wait for others of its kind."""
MOST_LOSSES: Final = 4
"""So many end it."""


class Suspects:
    """Stores the starts of calls, and lets those that were lost before go one by one.

    `on_aside(key)` is told of a call that waits here, which may take long.
    """

    def __init__(self, results: ResultLog, on_aside: Callable[[UUID], object]) -> None:
        self._results = results
        self._on_aside = on_aside
        self._aside: deque[tuple[Held, Call]] = deque()
        self._noting: dict[UUID, Call] = {}
        self._alone: UUID | None = None
        self.ready: list[Call] = []
        """Calls whose start is stored: they go to the next worker that has room."""

    def __len__(self) -> int:
        return len(self._aside)

    @property
    def under_way(self) -> int:
        """How many starts are being stored."""
        return len(self._noting)

    def take(self, held: Held, call: Call) -> None:
        """Let a call start when its start is stored, and that when it may; or end it."""
        index = split_task_id(call.key)[1]
        lost = len(held.losses[index])
        if lost >= MOST_LOSSES:
            self._results.end(held, index, TaskLost(_lost_text(lost)))
            self._results.settle(held)
        elif lost >= ALONE_AFTER and self._alone is not None:
            self._aside.append((held, call))
            self._on_aside(call.key)
        else:
            if lost >= ALONE_AFTER:
                self._alone = call.key
            self._note(held, call)

    def noted(self, held: Held, indices: Iterable[int]) -> None:
        """The starts of these tasks are stored."""
        unfinished = set(held.unfinished())
        for index in indices:
            key = task_id(held.address.bundle, index)
            call = self._noting.pop(key, None)
            if call is None:
                continue
            if index not in unfinished:
                self.ended(key)
            elif held.control.cancels(index):
                self._results.end_cancelled(held, index)
            else:
                self.ready.append(call)

    def ended(self, key: UUID) -> None:
        """A call is not with the workers (any more): another one may go."""
        if self._noting:
            self._noting.pop(key, None)
        if self._alone is None or key != self._alone:
            return
        self._alone = None
        while self._aside and self._alone is None:
            self.take(*self._aside.popleft())

    def remove(self, keys: Collection[UUID]) -> list[Call]:
        """Take these calls from those that are ready; the ones that were."""
        removed = [call for call in self.ready if call.key in keys]
        if removed:
            self.ready = [call for call in self.ready if call.key not in keys]
        return removed

    def remove_aside(self, keys: Collection[UUID]) -> list[Call]:
        """Take these calls from those that wait for others; the ones that did."""
        removed = [call for _, call in self._aside if call.key in keys]
        if removed:
            self._aside = deque((held, call) for held, call in self._aside if call.key not in keys)
        return removed

    def hand_back(self, held: Held) -> None:
        """The pool is stopped in order: what had started counts for nothing."""
        unfinished = set(held.unfinished())
        held.to_excuse = sorted(unfinished & (held.noted | set(held.to_note)))
        self._results.settle(held)

    def _note(self, held: Held, call: Call) -> None:
        self._noting[call.key] = call
        held.to_note.append(split_task_id(call.key)[1])
        self._results.settle(held)


def _lost_text(losses: int) -> str:
    return (
        f"the pool was lost each time that the task ran, {losses + TRUSTED_DELIVERIES} times or more: it is not tried"
        " again, because it may be what kills the pool (by a signal, or by taking the machine's memory);"
        " see the log of the endpoint"
    )
