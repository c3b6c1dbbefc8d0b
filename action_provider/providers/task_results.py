"""What is stored of the results of an action's tasks, wherever these run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from headrace.action_provider.state import Service
from headrace.bus.ids import task_id
from headrace.bus.names import token
from headrace.bus.nats.connection import Connection
from headrace.bus.store.actions import ActionRecord
from headrace.bus.store.streams import purge
from headrace.bus.tasks.bundles import TaskResult
from headrace.bus.tasks.catching_up import catch_up
from headrace.bus.tasks.results import ResultCollector
from headrace.bus.tasks.submission import collector


async def forget_tasks(service: Service, action: ActionRecord) -> None:
    """Remove the bundles, results and logs of an action's tasks. Raises `BusUnavailable`.

    What a pool still does for a cancelled action is not waited for: what it stores then goes with its age.
    """
    connection = service.connection
    # Bundle by bundle, not the whole group: its creator may have submitted more to it since.
    for bundle in (bundle for work in action.works for bundle in work.submitted(action.creator)):
        address = bundle.address
        # The bundle first: its acknowledgement may be on the way still, or have been lost, and a pool that got it
        # once more would find no results, and run it.
        await purge(connection, "TASKS", address.task_subject)
        await purge(connection, "RESULTS", f"{address.result_subject(0).rpartition('.')[0]}.*")
    if action.work is not None:
        await purge(connection, "LOGS", f"log.*.{token(action.creator)}.{action.work.group.hex}.>")


class StoredTask(NamedTuple):
    """What is stored of one task."""

    place: int
    """Which of the action's tasks it is."""
    task_id: UUID
    result: TaskResult | None
    stored_at: float
    """When its result was stored: unix seconds, the server's clock; 0 while there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResults:
    """The results of an action's tasks (at least one), as far as they were read. `places` are those of the tasks in the
    action, in the order of the collectors."""

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

    def has(self, *states: str) -> bool:
        """Whether a task has ended in one of these states."""
        return any(result.state in states for each in self.collectors for result in each.results.values())

    async def catch_up(self, connection: Connection) -> None:
        """Read what is stored by now. Raises `BusUnavailable`."""
        await catch_up(connection, self.collectors)

    @property
    def group(self) -> UUID:
        """The group that all its tasks are in."""
        return self.collectors[0].address.group

    def in_order(self) -> list[StoredTask]:
        """Every task, in the order of the places."""
        places = iter(self.places)
        tasks = [
            StoredTask(
                next(places),
                task_id(each.address.bundle, index),
                each.results.get(index),
                each.stored_at.get(index, 0.0),
            )
            for each in self.collectors
            for index in range(each.total or 0)
        ]
        return sorted(tasks, key=attrgetter("place"))
