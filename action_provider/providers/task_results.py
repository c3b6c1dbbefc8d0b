"""What is stored of the results of an action's tasks, wherever these run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from uuid import UUID

from headrace.action_provider.state import Service
from headrace.bus.ids import task_id
from headrace.bus.nats.connection import Connection
from headrace.bus.store.actions import ActionRecord
from headrace.bus.tasks.bundles import TaskResult
from headrace.bus.tasks.results import ResultCollector
from headrace.bus.tasks.submission import collector


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResults:
    """The results of an action's tasks, as far as they were read. `places` are those of the tasks in the action, in the
    order of the collectors."""

    collectors: Sequence[ResultCollector]
    places: Sequence[int]

    @classmethod
    def of(cls, service: Service, action: ActionRecord) -> TaskResults:
        """Those of an action; nothing is read yet."""
        collectors: list[ResultCollector] = []
        places: list[int] = []
        for work in action.works:
            bundles = work.submitted(action.creator)
            collectors += [collector(service.keys, bundle) for bundle in bundles]
            places += work.places or range(len(places), len(places) + sum(bundle.total for bundle in bundles))
        return cls(collectors=collectors, places=places)

    @property
    def complete(self) -> bool:
        """Whether every task has its result."""
        return all(each.complete for each in self.collectors)

    @property
    def last_stored_at(self) -> float:
        """When the last of them was stored: unix seconds, the server's clock; 0 where there are none."""
        return max((each.last_stored_at for each in self.collectors), default=0.0)

    async def catch_up(self, connection: Connection) -> None:
        """Read what is stored by now. Raises `BusUnavailable`."""
        await asyncio.gather(*(each.catch_up(connection) for each in self.collectors))

    def in_order(self) -> list[tuple[int, UUID, TaskResult | None]]:
        """Every task: its place in the action, its id and its result, in the order of the places."""
        tasks = [(place, *task) for place, task in zip(self.places, self._tasks(), strict=True)]
        return sorted(tasks, key=itemgetter(0))

    def _tasks(self) -> Iterator[tuple[UUID, TaskResult | None]]:
        for each in self.collectors:
            for index in range(each.total or 0):
                yield task_id(each.address.bundle, index), each.results.get(index)
