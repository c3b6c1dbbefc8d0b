"""Results on their way into the store: parts of a bundle, one after the other, each of what has come by then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from uuid import UUID

from headrace.bus.errors import (
    AlreadyStored,
    BusError,
    PayloadTooLarge,
    ResultNotSerialisable,
    TaskCancelled,
    TaskError,
)
from headrace.bus.ids import task_id
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.gathering import Gathering
from headrace.bus.tasks.bundles import ResultPart, Runtime, TaskResult, encode_part
from headrace.bus.tasks.options import waited_too_long
from headrace.bus.tasks.results import read_parts
from headrace.endpoint.agent.held import Held, failed
from headrace.endpoint.agent.side_tasks import SideTasks

logger = logging.getLogger(__name__)

MOST_PART_BYTES = 1024 * 1024

_PART_HEAD = 4096
_RETRY_S = 1.0


class ResultLog:
    """Ends tasks that do not come to run, and stores what bundles hold.

    `on_end` is told of each task that ends here, `on_change` of each bundle before it is settled, `on_complete` of one
    that has all its results stored, `on_noted` of tasks whose starts are, `on_stored` of results that we have stored.
    """

    def __init__(
        self,
        connection: Connection,
        runtime: Runtime,
        tasks: SideTasks,
        *,
        on_end: Callable[[UUID], None],
        on_change: Callable[[Held], None],
        on_complete: Callable[[Held], None],
        on_noted: Callable[[Held, list[int]], None],
        on_stored: Callable[[Held, list[TaskResult]], None] | None = None,
    ) -> None:
        self._connection = connection
        # Small bundles end together: their results then share a sync.
        self._gathering = Gathering(connection)
        self._runtime = runtime
        self._tasks = tasks
        self._on_end = on_end
        self._on_change = on_change
        self._on_complete = on_complete
        self._on_noted = on_noted
        self._on_stored = on_stored

    def end(self, held: Held, index: int, error: TaskError, state: str = "failed") -> None:
        """End a task that does not come to run, or must not run again. To be settled."""
        self._on_end(task_id(held.address.bundle, index))
        held.add(failed(index, error, taken_at=held.taken_at, state=state))

    def end_cancelled(self, held: Held, index: int) -> None:
        """End a task that was cancelled in time. To be settled."""
        self.end(held, index, TaskCancelled("the task was cancelled before it started"), "cancelled")

    def end_late(self, held: Held, limits_s: Mapping[int, float]) -> None:
        """End tasks that have waited longer than these limits. To be settled."""
        for index, limit_s in limits_s.items():
            self.end(held, index, waited_too_long(limit_s), "expired")

    def settle(self, held: Held) -> None:
        """Store what is to be stored, or let go what is complete."""
        self._on_change(held)
        if held.storing:
            return
        if held.has_news:
            held.storing = True
            self._tasks.spawn(self._store(held), "store results", held)
        elif held.complete:
            self._on_complete(held)

    async def _store(self, held: Held) -> None:
        try:
            while held.has_news:
                await self._store_part(held, _portion(held.unstored))
        finally:
            held.storing = False
        self.settle(held)

    async def _store_part(self, held: Held, results: list[TaskResult]) -> None:
        subject = held.address.result_subject(held.next_part)
        started, excused = list(held.to_note), list(held.to_excuse)
        functions, places = held.functions_of(results)
        part = ResultPart(
            results=results,
            total=len(held.bundle.tasks),
            runtime=self._runtime,
            origin=held.bundle.origin,
            stored_at=held.stored_at,
            functions=functions,
            places=places,
            pool=held.pool,
            started=started,
            excused=excused,
        )
        message = encode_part(part, subject=subject, key=held.bundle.result_key)
        try:
            await self._gathering.store(subject, message, timeout_s=None)
            held.stored([result.index for result in results])
            if self._on_stored is not None:
                self._on_stored(held, results)
            self._note(held, started, excused)
        except AlreadyStored:
            # Somebody (perhaps we, when an answer was lost) was first: what is stored counts, the rest goes on.
            await self._merge(held)
        except PayloadTooLarge as error:
            self._replace_largest(held, results, error)
        except BusError as error:
            logger.warning("A result part could not be stored (%s); trying again.", error, extra={"subject": subject})
            await asyncio.sleep(_RETRY_S)

    def _note(self, held: Held, started: list[int], excused: list[int]) -> None:
        """The starts and ends of these were stored, by us."""
        if not started and not excused:
            return
        held.noted.update(started)
        held.to_note = [index for index in held.to_note if index not in started]
        held.to_excuse = [index for index in held.to_excuse if index not in excused]
        self._on_noted(held, started)

    async def _merge(self, held: Held) -> None:
        try:
            parts = await read_parts(self._connection, held.address, held.bundle.result_keys, first_part=held.next_part)
        except BusError:
            await asyncio.sleep(_RETRY_S)
            return
        held.merge(parts)
        for part in parts:
            if part.part.pool == held.pool:
                self._note(held, part.part.started, part.part.excused)
                if self._on_stored is not None:
                    self._on_stored(held, part.part.results)

    def _replace_largest(self, held: Held, results: list[TaskResult], error: PayloadTooLarge) -> None:
        largest = max(results, key=lambda result: len(result.value))
        held.unstored[largest.index] = failed(
            largest.index,
            ResultNotSerialisable(
                f"the result has {len(largest.value)} bytes, more than the {error.limit} bytes that fit in a message;"
                " return less, or write it to a file and return its path"
            ),
            taken_at=held.taken_at,
        )


def _portion(unstored: dict[int, TaskResult]) -> list[TaskResult]:
    """As many results as fit in one part; at least one."""
    results: list[TaskResult] = []
    size = _PART_HEAD
    for result in unstored.values():
        size += len(result.value) + 96
        if results and size > MOST_PART_BYTES:
            break
        results.append(result)
    return results
