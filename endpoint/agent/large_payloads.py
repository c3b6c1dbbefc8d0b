"""Calls whose arguments are large wait aside until these are here; results that are large until they are stored."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from uuid import UUID

from headrace.bus.errors import ObjectMissing, TaskError
from headrace.bus.ids import split_task_id, task_id
from headrace.bus.tasks.bundles import TaskResult
from headrace.endpoint.agent.held import Held
from headrace.endpoint.agent.in_hand import InHand
from headrace.endpoint.agent.objects import ObjectDesk
from headrace.endpoint.agent.result_log import ResultLog
from headrace.endpoint.agent.side_tasks import SideTasks
from headrace.endpoint.agent.turns import Turns
from headrace.endpoint.engines.engine import Call, Engine


class LargePayloads:
    """Brings large payloads here and away, at the `desk`; None refuses them.

    A call whose arguments have come has another one of the `turns`.
    """

    def __init__(
        self,
        desk: ObjectDesk | None,
        in_hand: InHand,
        turns: Turns,
        results: ResultLog,
        tasks: SideTasks,
        engine: Callable[[], Engine],
    ) -> None:
        self._desk = desk
        self._in_hand = in_hand
        self._turns = turns
        self._results = results
        self._tasks = tasks
        self._engine = engine
        self._fetching = 0
        self.waiting: deque[tuple[Held, Call]] = deque()
        """Calls whose arguments are to be fetched."""
        self.fetched: set[UUID] = set()
        """Calls whose arguments are here."""
        self.keeping = 0
        """How many results are on their way to the object store."""

    def __len__(self) -> int:
        return len(self.waiting) + self._fetching

    def fetch(self, held: Held, call: Call) -> None:
        """Bring large arguments here; only then has the call another turn."""
        self.waiting.append((held, call))
        self.fetch_next()

    def fetch_next(self) -> None:
        """Fetch the arguments of as many calls as there are idle workers, and of one ahead."""
        load = self._engine().load()
        while self.waiting and self._fetching <= max(0, load.workers - load.busy):
            held, call = self.waiting.popleft()
            if self._in_hand.has(held):
                self._fetching += 1
                self._tasks.spawn(self._fetch(held, call), "fetch arguments", held)

    def remove(self, keys: Collection[UUID]) -> list[Call]:
        """Take these calls from those whose arguments are to be fetched; the ones that were there."""
        removed = [call for _, call in self.waiting if call.key in keys]
        if removed:
            self.waiting = deque((held, call) for held, call in self.waiting if call.key not in keys)
        return removed

    def release(self, key: UUID) -> None:
        """Let the large arguments of a call go."""
        self.fetched.discard(key)
        if self._desk is not None:
            self._desk.release(key)

    def release_all(self, held: Held) -> None:
        """Let all large arguments of a bundle go."""
        if self.fetched:
            for task in held.bundle.tasks:
                self.release(task_id(held.address.bundle, task.index))

    def keep(self, held: Held, result: TaskResult) -> None:
        """Bring a large value into the object store; only then is it a result."""
        self._tasks.spawn(self._keep(held, result), "store a large result", held)

    async def _fetch(self, held: Held, call: Call) -> None:
        index = split_task_id(call.key)[1]
        try:
            if self._desk is None:
                raise ObjectMissing("this pool takes no large arguments")
            await self._desk.fetch(call, held.address)
        except TaskError as error:
            self._results.end(held, index, error)
        finally:
            self._fetching -= 1
            self.fetch_next()
        if not self._in_hand.has(held) or index not in held.unfinished():
            self.release(call.key)
        elif held.control.cancels(index):
            self.release(call.key)
            self._results.end_cancelled(held, index)
        else:
            self.fetched.add(call.key)
            self._turns.put(held.address.principal, held.address.group, call)
        self._results.settle(held)
        self._engine().wake()

    async def _keep(self, held: Held, result: TaskResult) -> None:
        self.keeping += 1
        try:
            if self._desk is not None:
                result = await self._desk.kept(result, held.address)
        finally:
            self.keeping -= 1
        if held.add(result):
            self._results.settle(held)
