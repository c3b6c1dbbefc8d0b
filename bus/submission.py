"""Submit calls and collect their results: what the service and the dispatcher do for those who speak JSON.

Everything here needs the account that JetStream lives in and the key ring; it is not for the edge. Whoever wants a
submission to have one effect gives it a bundle id that it can make again: what is queued or done already is then not
stored a second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import platform
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.metadata import version
from typing import Any, Final
from uuid import UUID

from headrace.bus import ids
from headrace.bus.arguments import encode_json_arguments
from headrace.bus.bundles import (
    Bundle,
    FunctionUse,
    Runtime,
    Task,
    TaskOptions,
    TaskResult,
    bundle_key_expiry,
    decode_bundle,
    encode_bundle,
)
from headrace.bus.connection import EXPECTED_SEQUENCE_HEADER, Connection, StoredMessage
from headrace.bus.control import Control, cancel_tasks, decode_control, encode_control
from headrace.bus.errors import (
    AlreadyStored,
    DecodeError,
    PayloadTooLarge,
    RecordConflict,
    SignatureInvalid,
)
from headrace.bus.keys import KeyRing, Keys, bundle_key, bundle_keys, function_grant
from headrace.bus.lanes import Lanes
from headrace.bus.names import DEFAULT_POOL, Address, ResultAddress, token
from headrace.bus.results import ResultCollector, ResultWatch, stored_part

DELIVERIES_GROUP: Final = UUID("8f6c1d3e-5f0b-4c55-9b7e-0d1c0a6e7d01")
"""The group of all deliveries of events."""

MOST_TASKS_PER_BUNDLE: Final = 64
"""Small enough that a large submission spreads over the pools and workers of an endpoint."""

_KEY_LIFE_S = 3600
_HEAD_BYTES = 2048
_TASK_BYTES = 64
_FUNCTION_BYTES = 96
_PAGE = 200
_MOST_PARTS = 900
_MOST_SINGLE_READS = 16

JSON_RESULT: Final = TaskOptions(json_result=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a function with arguments that JSON can carry."""

    function: UUID
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Calls of one principal for one pool. With `first_bundle` the ids of bundles and tasks can be made again."""

    principal: str
    endpoint: UUID
    group: UUID
    calls: Sequence[Call]
    pool: str = DEFAULT_POOL
    options: TaskOptions = JSON_RESULT
    origin: bytes = b""
    trace: Mapping[str, str] = field(default_factory=dict)
    first_bundle: UUID | None = None
    retry: bool = False
    """It may have been submitted before: the pool then looks for earlier results and runs only what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A bundle that is stored, or about to be, and how many tasks it has (indices from 0)."""

    address: Address
    total: int

    @property
    def task_ids(self) -> list[UUID]:
        """The ids of its tasks, in order."""
        return [ids.task_id(self.address.bundle, index) for index in range(self.total)]


def task_ids(bundles: Sequence[Submitted]) -> list[UUID]:
    """The ids of all tasks, in the order of the calls."""
    return [task for bundle in bundles for task in bundle.task_ids]


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


class Plan:
    """A submission cut into bundles: what `store` sends. `bundles` may be recorded before."""

    def __init__(self, submission: Submission, *, max_payload: int) -> None:
        self.submission = submission
        self._cuts = list(_cut(submission.calls, submission, max_payload))
        first = submission.first_bundle or ids.new_bundle_id(submission.endpoint)
        self.bundles = [
            Submitted(address=_address(submission, _nth_bundle(first, number, submission.endpoint)), total=len(tasks))
            for number, tasks in enumerate(self._cuts)
        ]

    async def store(self, connection: Connection, key_ring: KeyRing, lanes: Lanes) -> None:
        """Store the bundles; returns when all of them are stored, now or before.

        Raises `StreamFull`, `PayloadTooLarge` and `BusUnavailable`.
        """
        await lanes.use(self.submission.endpoint, self.submission.pool, self.submission.principal)
        for bundle, tasks in zip(self.bundles, self._cuts, strict=True):
            message = self._message(key_ring, bundle.address, tasks)
            # An id stands for one content, so what is queued under it is this bundle: from an earlier life, or from
            # a try whose answer was lost.
            with contextlib.suppress(AlreadyStored):
                await connection.store(bundle.address.task_subject, message, retry=self.submission.retry)

    def _message(self, key_ring: KeyRing, address: Address, tasks: list[_Encoded]) -> bytes:
        submission = self.submission
        secret = key_ring.pool_secret(submission.endpoint, submission.pool)
        expires = int(time.time()) + _KEY_LIFE_S
        result_key, *older = key_ring.result_keys(submission.endpoint, submission.principal)
        places = {function: place for place, function in enumerate(dict.fromkeys(task.function for task in tasks))}
        bundle = Bundle(
            result_key=result_key,
            older_result_keys=older,
            functions=[
                FunctionUse(function, function_grant(secret, function, submission.principal, expires), expires)
                for function in places
            ],
            options=[submission.options],
            tasks=[
                Task(index, places[task.function], 0, task.encoding, task.arguments) for index, task in enumerate(tasks)
            ],
            runtime=service_runtime(),
            origin=submission.origin,
            trace=dict(submission.trace),
        )
        key = bundle_key(secret, submission.principal, expires)
        return encode_bundle(bundle, subject=address.task_subject, key=key, key_expires=expires)


@functools.cache
def service_runtime() -> Runtime:
    """What this process runs on, as bundles say it. (Reading the version of a package costs 0.15 ms each time.)"""
    return Runtime(python=platform.python_version(), headrace=version("headrace"), system=platform.system())


async def submit(connection: Connection, key_ring: KeyRing, lanes: Lanes, submission: Submission) -> list[Submitted]:
    """Store the calls as bundles; returns when all of them are stored.

    Raises `PayloadTooLarge` when one call alone is larger than the bus takes, `StreamFull` and `BusUnavailable`.
    """
    plan = Plan(submission, max_payload=connection.max_payload)
    await plan.store(connection, key_ring, lanes)
    return plan.bundles


async def collect(
    connection: Connection, key_ring: KeyRing, bundles: Sequence[Submitted], *, wait_s: float = 0.0
) -> list[TaskResult | None]:
    """The results of all tasks, in order, after waiting at most `wait_s` for them; None where there is none yet."""
    collectors = [collector(key_ring, bundle) for bundle in bundles]
    for each in collectors:
        await each.catch_up(connection)
    if wait_s > 0 and not all(each.complete for each in collectors):
        async with ResultWatch(connection, collectors) as watch:
            await watch.catch_up()
            await watch.until_complete(wait_s)
    return results_in_order(collectors)


async def submit_and_collect(
    connection: Connection, key_ring: KeyRing, lanes: Lanes, plan: Plan, *, wait_s: float
) -> list[TaskResult | None]:
    """Store a plan and wait for its results at most `wait_s`: nothing is read while the results come in time."""
    collectors = [collector(key_ring, bundle) for bundle in plan.bundles]
    async with ResultWatch(connection, collectors, confirmed=False) as watch:
        await plan.store(connection, key_ring, lanes)
        if plan.submission.retry:
            await watch.catch_up()
        await watch.until_complete(wait_s)
    return results_in_order(collectors)


def collector(key_ring: KeyRing, bundle: Submitted) -> ResultCollector:
    """A collector for the results of a bundle whose size is known."""
    key = key_ring.result_keys(bundle.address.endpoint, bundle.address.principal)
    return ResultCollector(bundle.address, key, total=bundle.total)


def results_in_order(collectors: Sequence[ResultCollector]) -> list[TaskResult | None]:
    """The results of all tasks of bundles whose sizes are known."""
    return [each.results.get(index) for each in collectors for index in range(each.total or 0)]


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
    tasks = (mark.subject.split(".")[-2:] for mark in marks)
    ids_of_tasks = (ids.task_id(UUID(bundle), int(index)) for bundle, index in tasks)
    return {task: mark.stored_at for task, mark in zip(ids_of_tasks, marks, strict=True)}


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
            bundle, index = mark.subject.split(".")[-2:]
            view = waiting.get(ids.task_id(UUID(bundle), int(index)))
            if view is not None and mark.subject == view.address.started_subject(view.index):
                waiting[view.task_id] = replace(view, marked_at=mark.stored_at)
    return [view for _, view in sorted({**waiting, **finished}.items())]


async def cancel(
    connection: Connection,
    key_ring: KeyRing,
    address: Address,
    indices: Collection[int] | None = None,
    *,
    force: bool = False,
) -> None:
    """Ask the pool to cancel these tasks of a bundle (None: all); `force` stops running ones as well.

    The request is stored: a pool that is away now finds it before it starts anything. Several add up. What has a
    result already keeps it. Raises `BusUnavailable`.
    """
    subject = address.control_subject
    secrets = key_ring.pool_secrets(address.endpoint, address.pool)
    wanted = cancel_tasks(indices, force=force)
    stored: StoredMessage | None = None  # as a rule there is none
    while True:
        control = wanted.merged(_control(stored, secrets))
        expected = {EXPECTED_SEQUENCE_HEADER: str(stored.sequence if stored else 0)}
        payload = encode_control(control, subject=subject, pool_secret=secrets[0])
        try:
            await connection.store(subject, payload, headers=expected)
        except RecordConflict:
            # There is one, or somebody else's came between (or our own, its answer lost): add to that one.
            stored = await connection.read_last("CONTROL", subject)
            continue
        return


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneQueue:
    """What the NATS server knows of the lane that an address is in."""

    taken_up_to: int = 0
    """The highest sequence that was given to a pool so far."""
    requests: int = 0
    """How many requests for bundles wait: none when no pool is there, or a full one."""
    now: float
    """When this was so: unix seconds, the server's clock."""


async def lane_queue(connection: Connection, lanes: Lanes, address: Address) -> LaneQueue:
    """The lane that an address is in; empty when there is none. Raises `BusUnavailable`."""
    state = await lanes.state(address.endpoint, address.pool, address.principal)
    if state is not None:
        return LaneQueue(taken_up_to=state.taken_up_to, requests=state.requests, now=state.now)
    info = await connection.api("STREAM.INFO.TASKS")
    return LaneQueue(now=datetime.fromisoformat(info["ts"]).timestamp())


async def queued_address(connection: Connection, principal: str, bundle: UUID) -> Address | None:
    """Where a bundle is queued (or runs) now; None when all its results are stored, or it is unknown."""
    info = await connection.api("STREAM.INFO.TASKS", {"subjects_filter": f"task.*.*.{token(principal)}.*.{bundle.hex}"})
    subjects = list(info["state"].get("subjects") or ())
    return Address.of_task_subject(subjects[0]) if subjects else None


# --- inside ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Encoded:
    function: UUID
    encoding: int
    arguments: bytes


def _address(submission: Submission, bundle: UUID) -> Address:
    return Address(
        endpoint=submission.endpoint,
        pool=submission.pool,
        principal=submission.principal,
        group=submission.group,
        bundle=bundle,
    )


def _nth_bundle(first: UUID, number: int, endpoint: UUID) -> UUID:
    if number == 0:
        return first
    return ids.repeatable_bundle_id(endpoint, first.int >> 80, first.hex, str(number))


def _cut(calls: Sequence[Call], submission: Submission, max_payload: int) -> Iterator[list[_Encoded]]:
    """The calls in bundles of at most 64 tasks, each small enough for one message."""
    room = max_payload - _HEAD_BYTES - len(submission.origin)
    tasks: list[_Encoded] = []
    size = 0
    for call in calls:
        encoding, arguments = encode_json_arguments(call.args, call.kwargs)
        cost = len(arguments) + _TASK_BYTES + _FUNCTION_BYTES
        if cost > room:
            raise PayloadTooLarge(
                f"the arguments of one call are {len(arguments)} bytes; the bus takes {room} in one call",
                size=len(arguments),
                limit=room,
            )
        if tasks and (len(tasks) == MOST_TASKS_PER_BUNDLE or size + cost > room):
            yield tasks
            tasks, size = [], 0
        tasks.append(_Encoded(call.function, encoding, arguments))
        size += cost
    if tasks:
        yield tasks


def _control(stored: StoredMessage | None, secrets: Keys) -> Control:
    if stored is None:
        return Control()
    try:
        return decode_control(stored.data, subject=stored.subject, pool_secret=secrets)
    except (SignatureInvalid, DecodeError):
        return Control()  # Nobody obeys that one: it is replaced.


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


async def _all(connection: Connection, stream: str, subject: str) -> list[StoredMessage]:
    """What is stored under a pattern that any number of subjects may fit, in the order of storing."""
    messages: list[StoredMessage] = []
    pending = 1
    while pending:
        start = messages[-1].sequence + 1 if messages else 1
        page, pending = await connection.read_many(stream, {"seq": start, "next_by_subj": subject, "batch": _PAGE})
        if not page:
            break
        messages += page
    return messages
