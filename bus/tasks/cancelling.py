"""Cancelling tasks, one or very many: for each bundle one cancellation and one result part, whatever is in it.

1. The cancellation is stored: from here on no pool starts these tasks, however long it was away.
2. The marks of started tasks are read. What has none counts as not started, and its result `cancelled` is stored here,
   in the pool's place: should it have been started a moment ago, it runs to its end (with force it is stopped), and
   what it gives is not stored.
3. What runs is left to its pool; if its endpoint is lost, it is cancelled as well.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar
from uuid import UUID

from headrace.bus.errors import BusError, BusUnavailable, DecodeError, RecordConflict, SignatureInvalid, TaskCancelled
from headrace.bus.ids import split_task_id
from headrace.bus.keys import KeyRing, Keys
from headrace.bus.names import Address, token
from headrace.bus.nats.answers import StoredMessage
from headrace.bus.nats.connection import EXPECTED_SEQUENCE_HEADER, Connection
from headrace.bus.tasks.control import Control, cancel_tasks, decode_control, encode_control
from headrace.bus.tasks.endings import end_unstarted, with_marks
from headrace.bus.tasks.task_views import TaskView, finished_in, queued_tasks

_PAGE: Final = 100
_READS_AT_ONCE: Final = 16
_PAGES_AT_ONCE: Final = 3
"""While one page waits for the stream of results, the next one uses that of cancellations."""
_MOST_SINGLE_MARKS: Final = 4
_MOST_MARKS: Final = 1000

REASONS: Final = ("the task was cancelled before it started", "the task was cancelled after its endpoint was lost")

UNKNOWN: Final = "unknown"
"""Stands for the state of a task that is not there, or whose result has expired."""

T = TypeVar("T")
IsUp = Callable[[Address], Awaitable[bool]]


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


class Cancelling:
    """One request to cancel tasks. `is_up` says whether an endpoint is there, asked once for each; `reasons` are the
    messages for what had not started, and for what had when its endpoint was lost.

    `states` and `running` grow while it works: how many tasks are now in which state, and which of them go on.
    """

    def __init__(
        self,
        connection: Connection,
        key_ring: KeyRing,
        *,
        force: bool,
        is_up: IsUp,
        reasons: tuple[str, str] = REASONS,
    ) -> None:
        self.states: Counter[str] = Counter()
        self.running: list[UUID] = []
        self._connection = connection
        self._key_ring = key_ring
        self._force = force
        self._is_up = is_up
        self._reasons = reasons
        self._pages = asyncio.Semaphore(_PAGES_AT_ONCE)
        self._up: dict[UUID, asyncio.Task[bool]] = {}

    async def tasks(self, principal: str, group: UUID, tasks: Collection[UUID]) -> None:
        """Cancel these tasks of a group. Raises `ValueError` for what is no id of a task, `BusError`."""
        where = f"task.*.*.{token(principal)}.{group.hex}"
        missing = await asyncio.gather(*(self._cancel_chosen(where, some) for some in _by_bundle(tasks)))
        await asyncio.gather(*(self._look_for(principal, some) for some in missing))

    async def tasks_at(self, endpoint: UUID, tasks: Collection[UUID]) -> None:
        """Cancel these tasks at an endpoint, whoever submitted them; what is not queued there counts as unknown.

        Raises `ValueError` for what is no id of a task, `BusError`.
        """
        where = f"task.{endpoint.hex}.*.*.*"
        missing = await asyncio.gather(*(self._cancel_chosen(where, some) for some in _by_bundle(tasks)))
        if any(missing):
            self.states[UNKNOWN] += sum(map(len, missing))

    async def group(self, principal: str, group: UUID, *, start: int = 1, within_s: float = math.inf) -> int | None:
        """Cancel every task of a group that is queued or runs, those stored before `start` (a sequence) left out.

        Gives None when that is done, and where to go on when it takes longer than `within_s`. Raises `BusError`.
        """
        subject = f"task.*.*.{token(principal)}.{group.hex}.*"
        return await self.everything(subject, start=start, within_s=within_s)

    async def everything(self, subject: str, *, start: int = 1, within_s: float = math.inf) -> int | None:
        """The same for all that is queued under a pattern of subjects."""
        end = time.monotonic() + within_s
        under_way: set[asyncio.Task[None]] = set()
        try:
            while True:
                query = {"seq": start, "next_by_subj": subject, "batch": _PAGE}
                messages, pending = await self._connection.read_many("TASKS", query)
                if messages:
                    start = messages[-1].sequence + 1
                    under_way.add(asyncio.create_task(self._cancel_page(messages), name="cancel tasks"))
                over = time.monotonic() > end
                if not messages or not pending or over:
                    await asyncio.gather(*under_way)
                    return start if pending and messages else None
                if len(under_way) >= _PAGES_AT_ONCE:
                    done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                    for page in done:
                        page.result()
        finally:
            for page in under_way:
                page.cancel()

    async def _cancel_page(self, messages: list[StoredMessage]) -> None:
        await self._cancel_queued(messages, None)

    async def _cancel_chosen(self, where: str, wanted: Mapping[UUID, set[UUID]]) -> set[UUID]:
        """Cancel tasks by their bundles; those that are not queued."""
        chosen = {task for tasks in wanted.values() for task in tasks}
        left, pending = {f"{where}.{bundle.hex}" for bundle in wanted}, 1
        missing = set(chosen)
        async with self._pages:
            while pending and left:
                query = {"multi_last": sorted(left), "batch": _PAGE}
                messages, pending = await self._connection.read_many("TASKS", query)
                missing -= await self._cancel_queued(messages, chosen)
                left -= {f"{where}.{message.subject.rpartition('.')[2]}" for message in messages}
        return missing

    async def in_bundle(self, views: Sequence[TaskView], *, dated: bool = False) -> list[TaskView]:
        """Cancel queued tasks of one bundle; the tasks as they are now. `dated`: see `end_unstarted`."""
        await self._store_cancellation(views)
        marks = await _marks(self._connection, [views])
        return await self._end(with_marks(views, marks), dated=dated)

    async def _cancel_queued(self, messages: list[StoredMessage], chosen: set[UUID] | None) -> set[UUID]:
        """Cancel the chosen tasks (None: all) of queued bundles; the ones that were there."""
        by_bundle: dict[UUID, list[TaskView]] = defaultdict(list)
        for task, view in queued_tasks(self._key_ring, messages).items():
            if chosen is None or task in chosen:
                by_bundle[view.address.bundle].append(view)
        bundles = list(by_bundle.values())
        if bundles:
            await asyncio.gather(*(self._store_cancellation(views) for views in bundles))
            marks = await _marks(self._connection, bundles)
            for views in await asyncio.gather(*(self._end(with_marks(views, marks)) for views in bundles)):
                self._count(views)
        return {view.task_id for views in bundles for view in views}

    async def _store_cancellation(self, views: Sequence[TaskView]) -> None:
        indices = [view.index for view in views]
        await cancel(self._connection, self._key_ring, views[0].address, indices, force=self._force)

    async def _end(self, views: Sequence[TaskView], *, dated: bool = False) -> list[TaskView]:
        """Store `cancelled` for the tasks of one bundle that have not started."""
        unstarted = TaskCancelled(self._reasons[0])
        ends = [(view, unstarted) for view in views if not view.marked_at]
        started = [view for view in views if view.marked_at]
        if started and not await self._is_there(views[0].address):
            lost = TaskCancelled(self._reasons[1])
            ends += [(view, lost) for view in started]
            started = []
        if not ends:
            return started
        return [*started, *await end_unstarted(self._connection, self._key_ring, ends, "cancelled", dated=dated)]

    async def _look_for(self, principal: str, tasks: set[UUID]) -> None:
        """Count tasks that are not queued: they have ended, or are not there."""
        found: dict[UUID, TaskView] = {}
        bundles = {split_task_id(task)[0] for task in tasks}
        for some in _pages(list(bundles), _READS_AT_ONCE):
            reads = (finished_in(self._connection, self._key_ring, principal, bundle) for bundle in some)
            for views in await asyncio.gather(*reads):
                found.update(views)
        self._count(found[task] for task in tasks if task in found)
        unknown = len(tasks - found.keys())
        if unknown:
            self.states[UNKNOWN] += unknown

    def _count(self, views: Iterable[TaskView]) -> None:
        for view in views:
            self.states[view.state] += 1
            if view.result is None:
                self.running.append(view.task_id)

    async def _is_there(self, address: Address) -> bool:
        asked = self._up.get(address.endpoint)
        if asked is None:
            asked = self._up[address.endpoint] = asyncio.ensure_future(_awaited(self._is_up(address)))
        return await asked


async def _awaited(answer: Awaitable[bool]) -> bool:
    return await answer


async def _marks(connection: Connection, bundles: Sequence[Sequence[TaskView]]) -> dict[str, float]:
    """The marks of tasks that have started: their subjects, and since when."""
    if sum(len(views) for views in bundles) <= _MOST_SINGLE_MARKS:
        subjects = [view.address.started_subject(view.index) for views in bundles for view in views]
        found = await asyncio.gather(*(connection.read_last("PROGRESS", subject) for subject in subjects))
        return {mark.subject: mark.stored_at for mark in found if mark is not None}
    every = [f"{views[0].address.started_subject(0).rpartition('.')[0]}.*" for views in bundles]
    try:
        marks, _ = await connection.read_many("PROGRESS", {"multi_last": every, "batch": _MOST_MARKS})
    except BusUnavailable:
        raise
    except BusError:
        if len(bundles) == 1:
            raise
        # More than the server gives in one answer.
        half = len(bundles) // 2
        return {**await _marks(connection, bundles[:half]), **await _marks(connection, bundles[half:])}
    return {mark.subject: mark.stored_at for mark in marks}


def _by_bundle(tasks: Collection[UUID]) -> Iterator[Mapping[UUID, set[UUID]]]:
    """Tasks by their bundles, a page of bundles at a time. Raises `ValueError` for what is no id of a task."""
    wanted: dict[UUID, set[UUID]] = defaultdict(set)
    for task in tasks:
        wanted[split_task_id(task)[0]].add(task)
    return ({bundle: wanted[bundle] for bundle in bundles} for bundles in _pages(list(wanted), _PAGE))


def _pages(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _control(stored: StoredMessage | None, secrets: Keys) -> Control:
    if stored is None:
        return Control()
    try:
        return decode_control(stored.data, subject=stored.subject, pool_secret=secrets)
    except (SignatureInvalid, DecodeError):
        return Control()  # Nobody obeys that one: it is replaced.
