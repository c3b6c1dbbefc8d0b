"""Ends of tasks that have not started, stored in the place of their pool: it may be away, or never come."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from headrace.bus.data.failures import encode_failure, of_error
from headrace.bus.errors import AlreadyStored, BusError, TaskError
from headrace.bus.keys import KeyRing
from headrace.bus.nats.connection import Connection
from headrace.bus.tasks.bundles import ResultPart, TaskResult, encode_part
from headrace.bus.tasks.results import ResultCollector, StoredPart
from headrace.bus.tasks.submission import service_runtime
from headrace.bus.tasks.task_views import TaskView

End = tuple[TaskView, TaskError]


async def end_unstarted(
    connection: Connection, key_ring: KeyRing, ends: Sequence[End], state: str, *, dated: bool = True
) -> list[TaskView]:
    """Store ends for tasks of one bundle; the tasks with the results that count.

    Those are these ends, or what was stored before: the first writer of a part wins, whoever it is. A pool that has
    the task in hand finds the result when it wants to store its own. Without `dated` the tasks may lack the time at
    which the result was stored, which saves reading it. Raises `BusUnavailable` and `StreamFull`.
    """
    view = ends[0][0]
    address, keys = view.address, key_ring.result_keys(view.address.endpoint, view.address.principal)
    # Under the key that its pool and its futures know, which may be one of before a rotation.
    key = view.result_key or keys[0]
    results = {each.index: _result(each.index, error, state) for each, error in ends}
    functions_of = {each.index: each.function for each, _ in ends}
    functions = list(dict.fromkeys(each.function for each, _ in ends if each.function is not None))
    places: dict[UUID | None, int] = {function: place for place, function in enumerate(functions)}
    collector = ResultCollector(address, keys)
    while left := [result for index, result in results.items() if index not in collector.results]:
        part = ResultPart(
            results=left,
            total=view.total,
            runtime=service_runtime(),
            origin=view.origin,
            stored_at=view.stored_at,
            functions=functions,
            places=[places.get(functions_of[result.index], -1) for result in left] if len(functions) > 1 else [],
        )
        number = collector.next_part
        subject = address.result_subject(number)
        try:
            stored = await connection.store(subject, encode_part(part, subject=subject, key=key))
        except AlreadyStored:
            await collector.catch_up(connection)
            continue
        if dated:
            await collector.catch_up(connection)
        else:
            collector.add(StoredPart(number=number, part=part, sequence=stored.sequence))
    if len(collector.results) >= view.total:
        # Nobody needs it any more, and its pool may never come to ack it. Where it is held, the ack finds nothing.
        with contextlib.suppress(BusError):
            await connection.api("STREAM.MSG.DELETE.TASKS", {"seq": view.sequence, "no_erase": True})
    return [ended(each, collector) for each, _ in ends]


def ended(view: TaskView, collector: ResultCollector) -> TaskView:
    """The task with its result, if the collector has it."""
    result = collector.results.get(view.index)
    if result is None:
        return view
    return replace(
        view,
        result=result,
        stored_at=collector.bundle_stored_at or view.stored_at,
        result_stored_at=collector.stored_at[view.index],
    )


def _result(index: int, error: TaskError, state: str) -> TaskResult:
    encoding, value = encode_failure(of_error(error))
    return TaskResult(index, state, encoding, value, attempts=0)


def with_marks(views: Sequence[TaskView], marks: Mapping[str, float]) -> list[TaskView]:
    """The tasks, those `running` that have a mark. `marks`: since when, by the mark's subject."""
    return [replace(view, marked_at=marks.get(view.address.started_subject(view.index), 0.0)) for view in views]
