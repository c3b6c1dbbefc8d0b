"""Awaited: the bundles of one task group whose results are to come, and how the results find their futures.

Results come live, as they are stored. What is missed (a lost message, a lost connection) is read from the store: at
a gap, with each new connection, and after a while without a word. Everything here runs on the loop thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from headrace.bus.data.encodings import OBJECT
from headrace.bus.errors import BusUnavailable, DecodeError, PermissionDenied, SubmissionRefused
from headrace.bus.ids import split_task_id, task_id
from headrace.bus.names import Address, ResultAddress, started_marks, stored_results
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.tasks.bundles import Task, TaskOptions, TaskResult
from headrace.bus.tasks.results import ResultCollector, live_part
from headrace.schemas import HeadraceError
from headrace.sdk.allowance import Allowance
from headrace.sdk.future import TaskFuture
from headrace.sdk.grant import Grant
from headrace.sdk.outcomes import fail, settle, unreadable
from headrace.sdk.payloads import Transfers
from headrace.sdk.service import Service

_START_WITHIN_S = 8.0
_FIRST_LOOK_S = 5.0
_LONGEST_LOOK_S = 60.0
_LOOKS_AT_ONCE = 32
_LOOKS_PER_SWEEP = 200
_LATE_S = 1.0


class Host(Protocol):
    """What awaiting results needs of the session."""

    grant: Grant
    service: Service
    connection: Connection
    allowance: Allowance
    transfers: Transfers

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None: ...


@dataclass(slots=True)
class AwaitedBundle:
    """A bundle whose results are awaited."""

    collector: ResultCollector
    futures: dict[int, TaskFuture]
    next_look: float
    more: dict[int, list[TaskFuture]] = field(default_factory=dict)
    """Further futures of the same tasks: somebody in this process has reloaded the group."""
    limits: dict[int, float] = field(default_factory=dict)
    """When tasks that may not wait for ever have waited too long, by the monotonic clock."""
    look_wait_s: float = _FIRST_LOOK_S
    looking: bool = False


class Awaited:
    """What one task group awaits. `learn` is told how long tasks ran (on average, in seconds), `on_empty` that nothing
    is awaited any more."""

    def __init__(
        self, host: Host, group: UUID, *, learn: Callable[[float], None], on_empty: Callable[[], None]
    ) -> None:
        self.bundles: dict[UUID, AwaitedBundle] = {}
        self.tasks = 0
        """How many tasks that were sent have no result."""
        self._host = host
        self._group = group
        self._learn = learn
        self._on_empty = on_empty
        self._subscriptions: list[Any] = []
        self._looks = asyncio.Semaphore(_LOOKS_AT_ONCE)

    async def start(self) -> None:
        """Subscribe to the group's results, before anything is sent. A bus that is away is waited for a while.

        Raises `BusUnavailable`, and then leaves nothing behind.
        """
        grant, connection = self._host.grant, self._host.connection
        where = (grant.endpoint, grant.principal, self._group)
        try:
            await connection.wait_connected(_START_WITHIN_S)
            self._subscriptions.append(await connection.subscribe(stored_results(*where), self._on_result))
            marks = f"stored.{started_marks(*where)}"
            self._subscriptions.append(await connection.subscribe(marks, self._on_started))
            await self._flush()
        except BaseException:
            await self.stop()
            raise

    async def _flush(self) -> None:
        connection = self._host.connection
        try:
            await connection.flush()
        except BusUnavailable:
            # It broke just now: with the next connection all subscriptions are made again.
            await connection.wait_connected(_START_WITHIN_S)
            await connection.flush()

    async def stop(self) -> None:
        """Unsubscribe."""
        while self._subscriptions:
            await self._subscriptions.pop().cancel()

    def address(self, bundle: UUID) -> Address:
        """Where a bundle of this group goes."""
        grant = self._host.grant
        return Address(
            endpoint=grant.endpoint, pool=grant.pool, principal=grant.principal, group=self._group, bundle=bundle
        )

    def expect(self, bundle: UUID, futures: dict[int, TaskFuture], total: int) -> None:
        """Await the results of a bundle of `total` tasks that is about to be sent; futures by the tasks' indices."""
        self._await(bundle, futures, total)
        self.tasks += len(futures)

    def limit(self, bundle: UUID, tasks: Iterable[Task], options: Iterable[TaskOptions]) -> None:
        """Take note that a bundle is stored: tasks that may not wait for ever do so from now on."""
        limits_s = [each.queue_timeout_s for each in options]
        waiting = self.bundles.get(bundle)
        if waiting is not None and any(limits_s):
            now = time.monotonic()
            timed = ((task.index, limits_s[task.options]) for task in tasks)
            waiting.limits = {index: now + limit_s for index, limit_s in timed if limit_s is not None}

    def attach(self, tasks: Iterable[tuple[UUID, TaskFuture]]) -> None:
        """Await results of tasks that were submitted before, perhaps by another process."""
        for task, future in tasks:
            bundle, index = split_task_id(task)
            future.task_id, future.endpoint_id, future.task_group_id = task, self._host.grant.endpoint, self._group
            waiting = self.bundles.get(bundle)
            if waiting is None:
                waiting = self._await(bundle, {})
            result = waiting.collector.results.get(index)
            if result is not None:
                self._deliver(future, waiting.collector, result, time.time())
            elif index in waiting.futures:
                waiting.more.setdefault(index, []).append(future)
            else:
                waiting.futures[index] = future
                self.tasks += 1
        self.look_at_all()

    def look_at_all(self) -> None:
        """Look into the store for every bundle that is awaited."""
        for bundle in list(self.bundles):
            self._look(bundle)

    def look_at_overdue(self, now: float) -> None:
        """Look into the store for bundles that have waited long since the last look, for some of them each time."""
        looks = 0
        for bundle, waiting in list(self.bundles.items()):
            if waiting.limits:
                self._ask_for_late(bundle, waiting, now)
            if now >= waiting.next_look and looks < _LOOKS_PER_SWEEP:
                looks += 1
                waiting.look_wait_s = min(_LONGEST_LOOK_S, waiting.look_wait_s * 2)
                waiting.next_look = now + waiting.look_wait_s
                self._look(bundle)

    def forget(self, bundle: UUID) -> None:
        """Await nothing of a bundle any more."""
        waiting = self.bundles.pop(bundle, None)
        if waiting is not None:
            self.tasks -= len(waiting.futures)
            self._host.allowance.ended()
            if not self.bundles:
                self._on_empty()

    def give_up(self, error: BaseException) -> None:
        """Fail every future that still waits."""
        for waiting in self.bundles.values():
            fail([*waiting.futures.values(), *itertools.chain(*waiting.more.values())], error)
        self.bundles.clear()

    def _await(self, bundle: UUID, futures: dict[int, TaskFuture], total: int | None = None) -> AwaitedBundle:
        collector = ResultCollector(self.address(bundle), self._host.grant.result_keys, total=total)
        waiting = self.bundles[bundle] = AwaitedBundle(collector, futures, time.monotonic() + _FIRST_LOOK_S)
        return waiting

    def _ask_for_late(self, bundle: UUID, waiting: AwaitedBundle, now: float) -> None:
        """Let the service see to tasks that have waited too long: their pool may be away, and would do it later."""
        for index, end in list(waiting.limits.items()):
            future = waiting.futures.get(index)
            if future is None or future.running():
                del waiting.limits[index]
            elif now >= end + _LATE_S:
                waiting.limits[index] = now + _LONGEST_LOOK_S
                self._host.spawn(self._ask_for(task_id(bundle, index)), "ask for a late task")

    async def _ask_for(self, task: UUID) -> None:
        with contextlib.suppress(HeadraceError):
            await asyncio.get_running_loop().run_in_executor(None, self._host.service.get_task, task)

    def _on_result(self, message: Message) -> None:
        try:
            address = ResultAddress.of_subject(message.subject)
        except DecodeError:
            return
        waiting = self.bundles.get(address.bundle)
        if waiting is None or address.endpoint != self._host.grant.endpoint:
            return
        self._take(address.bundle, waiting, waiting.collector.add(live_part(message, waiting.collector.result_key)))
        if waiting.collector.gap:
            self._look(address.bundle)

    def _on_started(self, message: Message) -> None:
        *_, bundle, index = message.subject.split(".")
        waiting = self.bundles.get(UUID(bundle))
        if waiting is not None and (future := waiting.futures.get(int(index))) is not None:
            for each in (future, *waiting.more.get(int(index), ())):
                each.begin()

    def _look(self, bundle: UUID) -> None:
        waiting = self.bundles.get(bundle)
        if waiting is not None and not waiting.looking:
            waiting.looking = True
            self._host.spawn(self._catch_up(bundle, waiting), "look for results")

    async def _catch_up(self, bundle: UUID, waiting: AwaitedBundle) -> None:
        try:
            async with self._looks:
                self._take(bundle, waiting, await waiting.collector.catch_up(self._host.connection))
        except (BusUnavailable, PermissionDenied):
            pass  # the next look, or the next connection, tries again
        finally:
            waiting.looking = False

    def _take(self, bundle: UUID, waiting: AwaitedBundle, results: list[TaskResult]) -> None:
        worked_s, ran, now, collector = 0.0, 0, time.time(), waiting.collector
        for result in results:
            if result.attempts:
                worked_s, ran = worked_s + max(0.0, result.ended_at - result.started_at), ran + 1
            future = waiting.futures.pop(result.index, None)
            if future is not None:
                self.tasks -= 1
                self._deliver(future, collector, result, now)
            if waiting.more:
                for each in waiting.more.pop(result.index, ()):
                    self._deliver(each, collector, result, now)
        if ran:
            self._learn(worked_s / ran)
        if waiting.collector.complete or not waiting.futures:
            self.forget(bundle)

    def _deliver(self, future: TaskFuture, collector: ResultCollector, result: TaskResult, now: float) -> None:
        future.note_times(
            collector.bundle_stored_at,
            result.taken_at,
            result.started_at,
            result.ended_at,
            collector.stored_at[result.index],
            now,
        )
        if result.encoding == OBJECT:
            self._host.spawn(self._fetch(future, result), "fetch a large result")
        else:
            settle(future, result)

    async def _fetch(self, future: TaskFuture, result: TaskResult) -> None:
        future.attempts = result.attempts
        if not future.begin():
            return
        try:
            future.set_result(await self._host.transfers.value(result.value, plain_only=future._plain_only))
        except HeadraceError as error:
            future.set_exception(error)
        except asyncio.CancelledError:
            future.set_exception(SubmissionRefused("the client was closed before the result came"))
            raise
        except Exception as error:
            future.set_exception(unreadable(error))
