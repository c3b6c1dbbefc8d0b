"""Submit calls and collect their results: what the service and the dispatcher do for those who speak JSON.

Everything here needs the account that JetStream lives in and the key ring; it is not for the edge. Whoever wants a
submission to have one effect gives it a bundle id that it can make again: what is queued or done already is then not
stored a second time.
"""

from __future__ import annotations

import contextlib
import functools
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final
from uuid import UUID

from headrace.bus import ids
from headrace.bus.data.arguments import encode_json_arguments
from headrace.bus.errors import (
    AlreadyStored,
    PayloadTooLarge,
)
from headrace.bus.keys import KeyRing, bundle_key, function_grant
from headrace.bus.names import DEFAULT_POOL, Address
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.gathering import Store
from headrace.bus.queues.lanes import Lanes
from headrace.bus.tasks.bundles import (
    Bundle,
    FunctionUse,
    Runtime,
    Task,
    TaskOptions,
    TaskResult,
    encode_bundle,
)
from headrace.bus.tasks.options import JSON_RESULT
from headrace.bus.tasks.results import ResultCollector, ResultWatch

DELIVERIES_GROUP: Final = UUID("8f6c1d3e-5f0b-4c55-9b7e-0d1c0a6e7d01")
"""The group of all deliveries of events."""

MOST_TASKS_PER_BUNDLE: Final = 64
"""Small enough that a large submission spreads over the pools and workers of an endpoint."""

_KEY_LIFE_S = 3600
_HEAD_BYTES = 2048
_TASK_BYTES = 64
_FUNCTION_BYTES = 96


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

    async def store(self, store: Store, key_ring: KeyRing, lanes: Lanes) -> None:
        """Store the bundles; returns when all of them are stored, now or before.

        Raises `StreamFull`, `PayloadTooLarge` and `BusUnavailable`.
        """
        await lanes.use(self.submission.endpoint, self.submission.pool, self.submission.principal)
        for bundle, tasks in zip(self.bundles, self._cuts, strict=True):
            message = self._message(key_ring, bundle.address, tasks)
            # An id stands for one content, so what is queued under it is this bundle: from an earlier life, or from
            # a try whose answer was lost.
            with contextlib.suppress(AlreadyStored):
                await store.store(bundle.address.task_subject, message, retry=self.submission.retry)

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


async def submit(
    connection: Connection, key_ring: KeyRing, lanes: Lanes, submission: Submission, *, store: Store | None = None
) -> list[Submitted]:
    """Store the calls as bundles; returns when all of them are stored. `store` is where, if not over the connection.

    Raises `PayloadTooLarge` when one call alone is larger than the bus takes, `StreamFull` and `BusUnavailable`.
    """
    plan = Plan(submission, max_payload=connection.max_payload)
    await plan.store(store or connection, key_ring, lanes)
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
