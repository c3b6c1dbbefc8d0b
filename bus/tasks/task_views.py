"""Tasks as they can be seen now: put together from TASKS, RESULTS and the marks of those that have started.

Everything here needs the account that JetStream lives in and the key ring; it is not for the edge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from uuid import UUID

from headrace.bus import ids
from headrace.bus.errors import DecodeError, SignatureInvalid
from headrace.bus.keys import KeyRing, bundle_keys
from headrace.bus.names import DEFAULT_POOL, Address, ResultAddress, token
from headrace.bus.nats import pages
from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.connection import Connection
from headrace.bus.tasks.bundles import Bundle, Task, TaskOptions, TaskResult, bundle_key_expiry, decode_bundle
from headrace.bus.tasks.options import JSON_RESULT
from headrace.bus.tasks.results import stored_part

_PAGE = 200
_MOST_PARTS = 900
_MOST_SINGLE_READS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One task as it can be seen now. `result` is None while it has none. Times are unix seconds, the server's clock;
    0 where it did not come so far."""

    task_id: UUID
    address: Address
    index: int
    result: TaskResult | None = None
    origin: bytes = b""
    total: int = 0
    """How many tasks its bundle has."""
    sequence: int = 0
    """Where its bundle is queued; 0 once it has a result."""
    stored_at: float = 0.0
    """When its bundle was stored."""
    queue_timeout_s: float | None = None
    """How long it may wait for its start. Not known for what has a result."""
    marked_at: float = 0.0
    """When the mark was stored that it has started: shortly after it did. Not looked up for what has a result."""
    result_stored_at: float = 0.0
    result_key: bytes = field(default=b"", repr=False)
    """The key that its bundle names for its results; not known once it has one."""
    function: UUID | None = None
    """Which function it calls; None where its result, stored by an earlier release, does not say."""

    @property
    def state(self) -> str:
        """`pending`, `running` once there is a mark that it has started, or the final state."""
        if self.result is None:
            return "running" if self.marked_at else "pending"
        return self.result.state


async def find(connection: Connection, key_ring: KeyRing, principal: str, task_id: UUID) -> TaskView | None:
    """A task by nothing but its id and its owner; None when it is unknown (or its results have expired).

    Raises `ValueError` when this is not the id of a task, and `BusUnavailable`.
    """
    bundle, _ = ids.split_task_id(task_id)
    results = f"result.*.{token(principal)}.*.{bundle.hex}.*"
    tasks = f"task.*.*.{token(principal)}.*.{bundle.hex}"
    view = ended_tasks(key_ring, await _last(connection, "RESULTS", results)).get(task_id)
    if view is None:
        view = queued_tasks(key_ring, await _last(connection, "TASKS", tasks)).get(task_id)
    if view is None:
        # Perhaps acked between the two readings: then its results are stored now.
        view = ended_tasks(key_ring, await _last(connection, "RESULTS", results)).get(task_id)
    return view if view is None else await with_mark(connection, view)


async def finished_in(connection: Connection, key_ring: KeyRing, principal: str, bundle: UUID) -> dict[UUID, TaskView]:
    """The tasks of a bundle that have results, by their ids. Raises `BusUnavailable`."""
    messages = await _last(connection, "RESULTS", f"result.*.{token(principal)}.*.{bundle.hex}.*")
    return ended_tasks(key_ring, messages)


async def with_mark(connection: Connection, view: TaskView) -> TaskView:
    """The same task, `running` if it has been told to run. Raises `BusUnavailable`."""
    if view.result is not None:
        return view
    mark = await connection.read_last("PROGRESS", view.address.started_subject(view.index))
    return view if mark is None else replace(view, marked_at=mark.stored_at)


async def started(connection: Connection, principal: str, group: UUID) -> dict[UUID, float]:
    """The tasks of a group that have been told to run, and since when (unix seconds). Raises `BusUnavailable`."""
    marks = await _all(connection, "PROGRESS", f"progress.*.{token(principal)}.{group.hex}.>")
    return {marked_task(mark): mark.stored_at for mark in marks}


def marked_task(mark: StoredMessage) -> UUID:
    """The task that a mark of PROGRESS says has started."""
    *_, bundle, index = mark.subject.split(".")
    return ids.task_id(UUID(bundle), int(index))


async def find_group(connection: Connection, key_ring: KeyRing, principal: str, group: UUID) -> list[TaskView]:
    """All tasks of a principal's group that are queued or have results, in the order of their ids.

    Raises `BusUnavailable`.
    """
    queued = queued_tasks(key_ring, await _all(connection, "TASKS", f"task.*.*.{token(principal)}.{group.hex}.*"))
    # Read after the queue: what was acked in between shows here.
    results = await _all(connection, "RESULTS", f"result.*.{token(principal)}.{group.hex}.>")
    finished = ended_tasks(key_ring, results)
    waiting = {task_id: view for task_id, view in queued.items() if task_id not in finished}
    if waiting:
        for mark in await _all(connection, "PROGRESS", f"progress.*.{token(principal)}.{group.hex}.>"):
            view = waiting.get(marked_task(mark))
            if view is not None and mark.subject == view.address.started_subject(view.index):
                waiting[view.task_id] = replace(view, marked_at=mark.stored_at)
    return [view for _, view in sorted({**waiting, **finished}.items())]


def queued_tasks(key_ring: KeyRing, messages: Iterable[StoredMessage]) -> dict[UUID, TaskView]:
    """The tasks of bundles that were read from TASKS, by id, in their order; what nobody would believe is left out."""
    views: dict[UUID, TaskView] = {}
    for message in messages:
        address = Address.of_task_subject(message.subject)
        bundle = _opened(key_ring, address, message)
        if bundle is not None:
            for task in bundle.tasks:
                task_id = ids.task_id(address.bundle, task.index)
                views[task_id] = TaskView(
                    task_id=task_id,
                    address=address,
                    index=task.index,
                    origin=bundle.origin,
                    total=len(bundle.tasks),
                    sequence=message.sequence,
                    stored_at=message.stored_at,
                    queue_timeout_s=_options_of(bundle, task).queue_timeout_s,
                    result_key=bundle.result_key,
                    function=bundle.functions[task.function].id if task.function < len(bundle.functions) else None,
                )
    return views


def ended_tasks(key_ring: KeyRing, messages: Iterable[StoredMessage]) -> dict[UUID, TaskView]:
    """The tasks whose results are in parts that were read from RESULTS, by id."""
    views: dict[UUID, TaskView] = {}
    # In the order in which they were stored: the first result of a task is the one that counts.
    for message in messages:
        where = ResultAddress.of_subject(message.subject)
        stored = stored_part(message, key_ring.result_keys(where.endpoint, where.principal))
        part = stored.part
        address = Address(
            endpoint=where.endpoint,
            pool=DEFAULT_POOL,
            principal=where.principal,
            group=where.group,
            bundle=where.bundle,
        )
        for number, result in enumerate(part.results):
            task_id = ids.task_id(where.bundle, result.index)
            view = TaskView(
                task_id=task_id,
                address=address,
                index=result.index,
                result=result,
                origin=part.origin,
                total=part.total,
                stored_at=part.stored_at,
                result_stored_at=stored.stored_at,
                function=part.function_of(number),
            )
            views.setdefault(task_id, view)
    return views


def _options_of(bundle: Bundle, task: Task) -> TaskOptions:
    return bundle.options[task.options] if task.options < len(bundle.options) else JSON_RESULT


def _opened(key_ring: KeyRing, address: Address, message: StoredMessage) -> Bundle | None:
    """A queued bundle, or None when no pool will believe it either."""
    try:
        expires = bundle_key_expiry(message.data)
        secrets = key_ring.pool_secrets(address.endpoint, address.pool)
        key = bundle_keys(secrets, address.principal, expires)
        return decode_bundle(message.data, subject=message.subject, key=key)
    except (SignatureInvalid, DecodeError):
        return None


async def _last(connection: Connection, stream: str, pattern: str) -> list[StoredMessage]:
    """What is stored under a pattern that few subjects fit, in the order of storing.

    The server knows subjects by an index; reading by pattern instead would scan the stream (20 ms where this takes 4,
    at 100 000 messages).
    """
    info = await connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": pattern})
    subjects = list(info["state"].get("subjects") or ())
    if len(subjects) > _MOST_SINGLE_READS:
        messages, _ = await connection.read_many(stream, {"multi_last": subjects[:_MOST_PARTS], "batch": _MOST_PARTS})
        return messages
    found = await asyncio.gather(*(connection.read_last(stream, subject) for subject in subjects))
    return sorted((message for message in found if message is not None), key=lambda message: message.sequence)


async def _all(connection: Connection, stream: str, pattern: str) -> list[StoredMessage]:
    """What is stored under a pattern that any number of subjects may fit, in the order of storing."""
    stored = pages.messages(connection, stream, pattern, batch=_PAGE)
    return [message async for page in stored for message in page]
