"""A channel: how the tasks of one task group are sent to one pool, cancelled, and given up.

Everything here but `Channel.submit`, `wake`, `finish` and what cancels a future runs on the loop thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol
from uuid import UUID

from headrace.bus.errors import AlreadyStored, BusUnavailable, SubmissionRefused
from headrace.bus.ids import split_task_id
from headrace.bus.tasks.bundles import Bundle, FunctionUse, Runtime, Task, encode_bundle
from headrace.schemas import HeadraceError
from headrace.sdk.awaited import Awaited, Host
from headrace.sdk.cancelling import Cancellations
from headrace.sdk.errors import ServiceUnavailable, ServiceUnreachable
from headrace.sdk.future import TaskFuture
from headrace.sdk.limits import BLOCK, WhenFull
from headrace.sdk.loop import LoopThread
from headrace.sdk.outbox import CLOSED, FIRST_CAP, Draft, NewTask, Outbox
from headrace.sdk.outcomes import fail, refused
from headrace.sdk.payloads import Sources

logger = logging.getLogger(__name__)

_GRANT_RETRY_S = 2.0


class ChannelHost(Host, Protocol):
    """What a channel needs of its session."""

    thread: LoopThread
    sources: Sources
    runtime: Runtime

    @property
    def store_within_s(self) -> float: ...

    async def wait_usable(self) -> None: ...

    async def lasting(self, uses: Iterable[FunctionUse]) -> list[FunctionUse]: ...

    async def drop_if_idle(self, channel: Channel) -> None: ...


class Channel:
    """The tasks of one task group at one pool. `awaited` has their results."""

    def __init__(self, session: ChannelHost, group: UUID, most_per_bundle: int) -> None:
        self.group = group
        self.users = 0
        self._session = session
        self._sending: dict[UUID, list[tuple[UUID, bool]]] = {}
        """Bundles whose ack has not come, with the tasks to cancel after it (and whether by force)."""
        self.cancellations = Cancellations(lambda tasks, force: session.service.cancel_group(group, tasks, force=force))
        self._to_cancel: list[tuple[UUID, bool]] = []
        self._cancel_lock = threading.Lock()
        self._tell_cancel = self._on_cancel  # one object for all futures
        self._outbox = Outbox(
            session.grant.endpoint,
            most_per_bundle=most_per_bundle,
            send=self._start_sending,
            wake=lambda: session.thread.call(self._outbox.pump),
            begun=session.allowance.begun,
            backlog=lambda: self.awaited.tasks,
        )
        # Of their own, so that nothing small waits for an upload; few to a bundle, so that they spread over pools.
        self._large = Outbox(
            session.grant.endpoint,
            most_per_bundle=min(FIRST_CAP, most_per_bundle),
            send=self._start_sending,
            wake=lambda: session.thread.call(self._large.pump),
            begun=session.allowance.begun,
        )
        self.awaited = Awaited(session, group, learn=self._outbox.learn, on_empty=self._on_empty)

    @property
    def idle(self) -> bool:
        """Whether nobody uses it and no result is awaited."""
        return self.users <= 0 and not self.awaited.bundles

    def submit(self, task: NewTask, *, when_full: WhenFull = BLOCK, check: Callable[[], None] = lambda: None) -> None:
        """Send a task, once its sources are uploaded; its future gets its id now and its result later. Any thread.

        Waits for room as `when_full` says, `check` being called meanwhile. Raises `QueueFull`, `SubmissionRefused`
        when the client was closed, and what `check` raises.
        """
        grant, future = self._session.grant, task.future
        future.function_id, future.endpoint_id, future.task_group_id = task.use.id, grant.endpoint, self.group
        future._on_cancel = self._tell_cancel
        if not self._session.allowance.is_free:
            self._wait_for_allowance(when_full, check)
        if not task.sources:
            self._outbox.add(task, when_full=when_full, check=check)
            return
        held = task.sources = self._session.sources.hold(task.sources, when_full, check)
        try:
            self._large.add(task, when_full=when_full, check=check)
        except BaseException:
            self._session.sources.let_go(held)
            raise

    def _wait_for_allowance(self, when_full: WhenFull, check: Callable[[], None]) -> None:
        def look() -> None:
            check()
            self._outbox.check_open()

        self._session.allowance.wait(when_full, look)

    def wake(self) -> None:
        """Have submissions that wait for room look again."""
        self._session.allowance.wake()
        self._outbox.room.wake()
        self._large.room.wake()
        self._session.sources.room.wake()

    def finish(self, end: float) -> None:
        """Wait until everything is stored and the service knows of every cancellation, at most until `end` (by the
        monotonic clock). Any thread but the loop's."""
        for outbox in (self._large, self._outbox):
            if not outbox.room.wait_empty(max(0.0, end - time.monotonic())):
                logger.error(
                    "%d tasks of group %s could not be stored before the end of this process, and are lost.",
                    outbox.room.tasks,
                    self.group,
                    extra={"action": "tasks_lost"},
                )
        if self.cancellations.untold:
            self.cancellations.wait(max(0.0, end - time.monotonic()))

    def attach(self, tasks: Sequence[tuple[UUID, TaskFuture]]) -> None:
        """Await results of tasks that were submitted before, perhaps by another process."""
        for _, future in tasks:
            future._on_cancel = self._tell_cancel
        self.awaited.attach(tasks)

    def give_up(self, error: BaseException, why: str = CLOSED) -> None:
        """Fail every future that still waits, and take no more tasks: whoever brings one is told `why`."""
        self.cancellations.close()
        for draft in (*self._outbox.close(why), *self._large.close(why)):
            fail(draft.pending(), error)
            self._session.sources.let_go(draft.sources)
        self.awaited.give_up(error)
        self._session.allowance.wake()

    def _start_sending(self, draft: Draft) -> None:
        self._sending[draft.id] = []
        self._session.spawn(self._send(draft), "send bundle")

    async def _send(self, draft: Draft) -> None:
        try:
            tasks = draft.live_tasks()
            if tasks:
                futures = {i: f for i, f in enumerate(draft.futures) if f is not None and not f.done()}
                # Awaited before it is sent: the result may be here before the ack is.
                self.awaited.expect(draft.id, futures, total=len(tasks))
                if draft.sources:
                    await self._session.transfers.bring(self.awaited.address(draft.id), draft.sources)
                await self._store(draft, tasks)
                self.awaited.limit(draft.id, tasks, draft.options)
            else:
                self._session.allowance.ended()
        except HeadraceError as error:
            self.awaited.forget(draft.id)
            fail(draft.pending(), refused(error))
        except asyncio.CancelledError:
            self.awaited.forget(draft.id)
            fail(draft.pending(), SubmissionRefused("the client was closed before the task was known to be stored"))
            raise
        except BaseException as error:
            self.awaited.forget(draft.id)
            fail(draft.pending(), SubmissionRefused(f"the task could not be sent: {error!r}"))
            raise
        finally:
            if to_cancel := self._sending.pop(draft.id, None):
                self.cancellations.add(to_cancel)
            self._session.allowance.stored()
            self._session.sources.let_go(draft.sources)
            (self._large if draft.sources else self._outbox).sent(draft)

    async def _store(self, draft: Draft, tasks: list[Task]) -> None:
        session = self._session
        retry = False
        while True:
            await session.wait_usable()
            try:
                functions = await session.lasting(draft.functions)
            except (ServiceUnreachable, ServiceUnavailable):
                await asyncio.sleep(_GRANT_RETRY_S)
                continue
            grant = session.grant
            subject = self.awaited.address(draft.id).task_subject
            bundle = Bundle(
                result_key=grant.result_key,
                older_result_keys=list(grant.older_result_keys),
                functions=functions,
                options=list(draft.options),
                tasks=tasks,
                runtime=session.runtime,
            )
            message = encode_bundle(bundle, subject=subject, key=grant.bundle_key, key_expires=grant.bundle_key_expires)
            try:
                await session.connection.store(subject, message, retry=retry, timeout_s=session.store_within_s)
                return
            except AlreadyStored:
                return  # by an earlier try whose answer was lost
            except BusUnavailable:
                retry = True  # for ever: with a new grant, so that the signature is still good when it is stored

    def _on_empty(self) -> None:
        if self.users <= 0:
            # Its users left before the last result came: futures that are cancelled end at once.
            self._session.spawn(self._session.drop_if_idle(self), "leave channel")

    def _on_cancel(self, future: TaskFuture, force: bool) -> None:
        task = future.task_id
        if task is None or self._outbox.withdraw(future) or self._large.withdraw(future):
            return
        self.cancellations.expect()
        with self._cancel_lock:
            called = bool(self._to_cancel)
            self._to_cancel.append((task, force))
        if not called:
            self._session.thread.call(self._cancel_sent)

    def _cancel_sent(self) -> None:
        """Hand cancellations on, but for tasks whose bundle is still on its way: nobody knows of them yet."""
        known: list[tuple[UUID, bool]] = []
        with self._cancel_lock:
            tasks, self._to_cancel = self._to_cancel, []
        for task, force in tasks:
            known_later = self._sending.get(split_task_id(task)[0])
            (known if known_later is None else known_later).append((task, force))
        if known:
            self.cancellations.add(known)
