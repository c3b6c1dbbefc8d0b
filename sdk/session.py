"""A session: this process's way to one pool of one endpoint, with a credential that the service granted.

    Session        one NATS connection and the keys of one grant, renewed at half of its life
    └── Channel    the tasks and results of one task group in that session

Everything here but `Channel.submit`, `withdraw` and `attach` runs on the loop thread.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.metadata
import itertools
import logging
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from headrace.bus.bundles import Bundle, FunctionUse, Runtime, Task, TaskOptions, TaskResult, encode_bundle
from headrace.bus.clock import elapsed_s
from headrace.bus.connection import Connection, Message
from headrace.bus.credentials import Credentials, issued_at
from headrace.bus.errors import (
    AlreadyStored,
    BusUnavailable,
    DecodeError,
    PermissionDenied,
    ResultNotSerialisable,
    SubmissionRefused,
    TaskError,
)
from headrace.bus.failures import decode_failure, rebuild
from headrace.bus.ids import split_task_id, task_id
from headrace.bus.names import Address, ResultAddress, started_marks, stored_results
from headrace.bus.payloads import Source
from headrace.bus.results import ResultCollector, live_part
from headrace.bus.values import OBJECT
from headrace.bus.values import decode as decode_value
from headrace.schemas import HeadraceError
from headrace.sdk.allowance import NO_LIMIT, Allowance, QueueLimit
from headrace.sdk.cancelling import Cancellations
from headrace.sdk.errors import NotFound, ServiceUnavailable, ServiceUnreachable
from headrace.sdk.future import TaskFuture
from headrace.sdk.limits import BLOCK, WhenFull
from headrace.sdk.loop import LoopThread
from headrace.sdk.outbox import CLOSED, FIRST_CAP, LARGEST_CAP, Draft, Outbox
from headrace.sdk.payloads import ObjectService, Sources, Transfers

logger = logging.getLogger(__name__)

_START_WITHIN_S = 8.0
_FIRST_LOOK_S = 5.0
_LONGEST_LOOK_S = 60.0
_SWEEP_S = 2.5
_LOOKS_AT_ONCE = 32
_LOOKS_PER_SWEEP = 200
_RENEW_RETRY_S = 2.0
_MAY_SUBMIT_AGAIN_S = 3.0
"""How often a session is asked for anew that may not submit."""
_MISSING_TIMES = 3
_LATE_S = 1.0
_KEY_MARGIN_S = 10.0
_LEAST_KEY_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the service granted: where to connect, as whom, and the keys. Durations in seconds."""

    endpoint: UUID
    pool: str
    principal: str
    urls: tuple[str, ...]
    credentials: Credentials
    bundle_key: bytes = field(repr=False)
    bundle_key_expires: int
    result_key: bytes = field(repr=False)
    expires_in_s: float
    max_payload: int = 8 << 20
    """The largest message that the bus takes, in bytes."""
    issued_at: int
    """Unix seconds by the service's clock."""
    queue_limit: QueueLimit = NO_LIMIT
    older_result_keys: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def result_keys(self) -> tuple[bytes, ...]:
        """The keys under which results are believed; the first one is in use."""
        return (self.result_key, *self.older_result_keys)

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> Grant:
        """Read the answer of `POST /api/v1/sessions`."""
        return cls(
            endpoint=UUID(document["endpoint_id"]),
            pool=document["pool"],
            principal=document["principal"],
            urls=tuple(document["nats_urls"]),
            credentials=Credentials(jwt=document["jwt"], seed=document["seed"], inbox_prefix=document["inbox_prefix"]),
            bundle_key=base64.b64decode(document["bundle_key"]),
            bundle_key_expires=int(document["bundle_key_expires"]),
            result_key=base64.b64decode(document["result_key"]),
            expires_in_s=float(document["expires_in_s"]),
            max_payload=int(document["max_payload"]),
            issued_at=issued_at(document["jwt"]),
            older_result_keys=tuple(map(base64.b64decode, document.get("older_result_keys") or ())),
            queue_limit=QueueLimit.of_document(document.get("queue_limit")),
        )


class Service(ObjectService, Protocol):
    """What a session asks of the service (see `headrace.sdk.Client`). Each call may take its time; any thread."""

    def open_session(self, endpoint_id: Any, user_endpoint_config: dict[str, Any] | None) -> dict[str, Any]: ...

    def grant_function(self, endpoint_id: Any, function_id: Any) -> FunctionUse: ...

    def cancel_group(self, task_group_id: Any, task_ids: Any = None, *, force: bool = False) -> Any: ...

    def get_task(self, task_id: Any) -> Any: ...

    def get_endpoint_queue(self, endpoint_id: Any) -> Any: ...


class Session:
    """Use `Session.open`, then `channel` for each task group; `close` when the client is closed."""

    def __init__(
        self, service: Service, thread: LoopThread, grant: Grant, user_endpoint_config: dict[str, Any] | None
    ) -> None:
        self.grant = grant
        self.thread = thread
        self.service = service
        self._config = user_endpoint_config
        self.connection = Connection(grant.urls, grant.credentials, name="headrace-sdk", connect_timeout_s=10.0)
        self.runtime = Runtime(
            python=platform.python_version(),
            headrace=importlib.metadata.version("headrace"),
            host=socket.gethostname(),
            system=platform.system(),
        )
        self.allowance = Allowance(grant.endpoint, grant.queue_limit, self._ask_queue)
        self._granted_at = elapsed_s()
        self._usable = asyncio.Event()
        if grant.queue_limit.may_submit:
            self._usable.set()
        self._renew_now = asyncio.Event()
        self._channels: dict[UUID, Channel] = {}
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._functions: dict[UUID, FunctionUse] = {}
        self._functions_lock = threading.Lock()
        self.sources = Sources()
        self.transfers = Transfers(service)

    @classmethod
    def open(
        cls, service: Service, thread: LoopThread, grant: Grant, user_endpoint_config: dict[str, Any] | None
    ) -> Session:
        """Connect with a grant. Any thread but the loop's. Raises `BusError`."""
        session = cls(service, thread, grant, user_endpoint_config)
        thread.run(session._start(), timeout_s=30.0)
        return session

    def function_use(self, function_id: UUID) -> FunctionUse:
        """The service's word that this function may run here, perhaps one that ends soon: see `lasting`.

        Any thread but the loop's. Raises `ClientError`.
        """
        with self._functions_lock:
            use = self._functions.get(function_id)
        return self._asked_use(function_id) if use is None else use

    def _asked_use(self, function_id: UUID) -> FunctionUse:
        use = self.service.grant_function(self.grant.endpoint, function_id)
        with self._functions_lock:
            self._functions[function_id] = use
        return use

    async def lasting(self, uses: Iterable[FunctionUse]) -> list[FunctionUse]:
        """The same grants, those that end soon renewed: a bundle may have waited long for the bus. Raises as
        `function_use` does."""
        loop, lasting = asyncio.get_running_loop(), list(uses)
        for place, use in enumerate(lasting):
            if self._ends_soon(use):
                with self._functions_lock:
                    known = self._functions.get(use.id, use)
                again = self._ends_soon(known)
                lasting[place] = await loop.run_in_executor(None, self._asked_use, use.id) if again else known
        return lasting

    def _ends_soon(self, use: FunctionUse) -> bool:
        # Grants are compared with the time at which a bundle is stored: renew well before. The time is the service's,
        # as its latest credential tells it in whole seconds: the clock of this machine may be wrong.
        return use.grant_expires - self._service_time < self.grant.expires_in_s / 4

    @property
    def _service_time(self) -> float:
        return self.grant.issued_at + 1 + (elapsed_s() - self._granted_at)

    async def channel(self, group: UUID, *, most_per_bundle: int = LARGEST_CAP) -> Channel:
        """The channel of a task group, subscribed to its results."""
        async with self._opening:
            channel = self._channels.get(group)
            if channel is None:
                channel = Channel(self, group, most_per_bundle)
                await channel.start()
                self._channels[group] = channel
            channel.users += 1
            return channel

    async def leave(self, channel: Channel) -> None:
        """Give a channel back; the last user's leave ends its subscription once nothing is pending."""
        channel.users -= 1
        await self.drop_if_idle(channel)

    async def drop_if_idle(self, channel: Channel) -> None:
        """End a channel's subscription if nobody uses it and nothing is pending."""
        if channel.users <= 0 and not channel.pending:
            self._channels.pop(channel.group, None)
            await channel.stop()

    async def close(self) -> None:
        """Disconnect and end all that runs for this session."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for channel in list(self._channels.values()):
            channel.give_up(SubmissionRefused("the client was closed before the result came"))
        await self.connection.close()

    def finish(self, end: float) -> None:
        """Wait until everything is stored; see `Channel.finish`."""
        for channel in list(self._channels.values()):
            channel.finish(end)

    def spawn(self, work: Any, name: str) -> None:
        """Run a coroutine as a task that this session owns."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait_usable(self) -> None:
        """Wait until bundles may be signed and sent: the grant has not run out, and the queue is not far too full."""
        if self._key_left_s < _LEAST_KEY_S:
            # This machine has slept, and nobody has looked so far.
            self._usable.clear()
            self._renew_now.set()
        await self._usable.wait()

    @property
    def store_within_s(self) -> float:
        """How long a bundle that is signed now may be tried to be stored: after that its signature would be too old."""
        left_s = self._key_left_s
        return min(self.grant.expires_in_s / 2, max(_LEAST_KEY_S, left_s - min(_KEY_MARGIN_S, left_s / 4)))

    @property
    def _key_left_s(self) -> float:
        return self.grant.bundle_key_expires - self._service_time

    async def _start(self) -> None:
        await self.connection.open()
        self.connection.on_connected.append(self._catch_up)
        self.connection.on_closed.append(self._renew_now.set)
        self.spawn(self._renew(), "session renewal")
        self.spawn(self._sweep(), "session sweep")

    async def _renew(self) -> None:
        while True:
            await self._until_renewal()
            self._renew_now.clear()
            missing = 0
            while True:
                if elapsed_s() - self._granted_at > self.grant.expires_in_s:
                    self._usable.clear()
                try:
                    await self._renew_once()
                    break
                except HeadraceError as error:
                    # Not at the first time: something between us and the service may say so while it restarts.
                    missing = missing + 1 if isinstance(error, NotFound) else 0
                    if missing >= _MISSING_TIMES:
                        self._end(error)
                        return
                    logger.warning(
                        "The session could not be renewed (%s); trying again in %g s, what is under way goes on.",
                        error,
                        _RENEW_RETRY_S,
                        extra={"action": "session_renewal_failed"},
                    )
                    await asyncio.sleep(_RENEW_RETRY_S)

    def _end(self, error: HeadraceError) -> None:
        """The endpoint is there no more, or not for us: nothing will ever come."""
        logger.error("The endpoint is gone; giving up what waits for it: %s", error, extra={"action": "endpoint_gone"})
        for channel in list(self._channels.values()):
            channel.give_up(error, why=str(error))

    async def _until_renewal(self) -> None:
        # Half of the life, looked at often: a suspended laptop's timers stand still with it.
        due = self._granted_at + self.grant.expires_in_s / 2
        if not self.grant.queue_limit.may_submit:
            due = self._granted_at + _MAY_SUBMIT_AGAIN_S
        while elapsed_s() < due and not self._renew_now.is_set():
            try:
                async with asyncio.timeout(min(30.0, max(0.05, due - elapsed_s()))):
                    await self._renew_now.wait()
            except TimeoutError:
                continue

    async def _renew_once(self) -> None:
        loop = asyncio.get_running_loop()
        document = await loop.run_in_executor(None, self.service.open_session, self.grant.endpoint, self._config)
        grant = Grant.of_document(document)
        await self.connection.renew(grant.credentials)
        self.grant = grant
        self._granted_at = elapsed_s()
        self.allowance.learn(grant.queue_limit)
        if grant.queue_limit.may_submit:
            self._usable.set()
        else:
            self._usable.clear()

    def _ask_queue(self) -> QueueLimit:
        return QueueLimit.of_document(self.service.get_endpoint_queue(self.grant.endpoint).get("own"))

    def _catch_up(self) -> None:
        # Live results are core NATS: what came while we were away is in the store only.
        for channel in self._channels.values():
            channel.look_at_all()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.monotonic()
            for channel in list(self._channels.values()):
                channel.look_at_overdue(now)


@dataclass(slots=True)
class _Waiting:
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
    stored: bool = True


class Channel:
    """The tasks and results of one task group at one pool."""

    def __init__(self, session: Session, group: UUID, most_per_bundle: int) -> None:
        self.group = group
        self.users = 0
        self.pending: dict[UUID, _Waiting] = {}
        self._session = session
        self._subscriptions: list[Any] = []
        self._sending: dict[UUID, list[tuple[UUID, bool]]] = {}
        """Bundles whose ack has not come, with the tasks to cancel after it (and whether by force)."""
        self.cancellations = Cancellations(lambda tasks, force: session.service.cancel_group(group, tasks, force=force))
        self._to_cancel: list[tuple[UUID, bool]] = []
        self._cancel_lock = threading.Lock()
        self._tell_cancel = self._on_cancel  # one object for all futures
        self._waiting_for = 0
        """How many tasks that were sent have no result."""
        self._looks = asyncio.Semaphore(_LOOKS_AT_ONCE)
        self._outbox = Outbox(
            session.grant.endpoint,
            most_per_bundle=most_per_bundle,
            send=self._start_sending,
            wake=lambda: session.thread.call(self._outbox.pump),
            begun=session.allowance.begun,
            backlog=lambda: self._waiting_for,
        )
        # Of their own, so that nothing small waits for an upload; few to a bundle, so that they spread over pools.
        self._large = Outbox(
            session.grant.endpoint,
            most_per_bundle=min(FIRST_CAP, most_per_bundle),
            send=self._start_sending,
            wake=lambda: session.thread.call(self._large.pump),
            begun=session.allowance.begun,
        )

    async def start(self) -> None:
        """Subscribe to the group's results, before anything is sent. A bus that is away is waited for a while.

        Raises `BusUnavailable`, and then leaves nothing behind.
        """
        grant, connection = self._session.grant, self._session.connection
        where = (grant.endpoint, grant.principal, self.group)
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
        connection = self._session.connection
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

    def submit(
        self,
        use: FunctionUse,
        options: TaskOptions,
        encoding: int,
        arguments: bytes,
        future: TaskFuture,
        sources: Sequence[Source] = (),
        *,
        when_full: WhenFull = BLOCK,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Send a task, once `sources` are uploaded; its future gets its id now and its result later. Any thread.

        Waits for room as `when_full` says, `check` being called meanwhile. Raises `QueueFull`, `SubmissionRefused`
        when the client was closed, and what `check` raises.
        """
        grant = self._session.grant
        future.function_id, future.endpoint_id, future.task_group_id = use.id, grant.endpoint, self.group
        future._on_cancel = self._tell_cancel
        if not self._session.allowance.is_free:
            self._wait_for_allowance(when_full, check)
        if not sources:
            self._outbox.add(use, options, encoding, arguments, future, when_full=when_full, check=check)
            return
        held = self._session.sources.hold(sources, when_full, check)
        try:
            self._large.add(use, options, encoding, arguments, future, held, when_full=when_full, check=check)
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

    def attach(self, tasks: Iterable[tuple[UUID, TaskFuture]]) -> None:
        """Await results of tasks that were submitted before, perhaps by another process. On the loop."""
        for task, future in tasks:
            bundle, index = split_task_id(task)
            future.task_id, future.endpoint_id, future.task_group_id = task, self._session.grant.endpoint, self.group
            future._on_cancel = self._tell_cancel
            waiting = self.pending.get(bundle)
            if waiting is None:
                waiting = self.pending[bundle] = self._waiting(bundle, {})
            result = waiting.collector.results.get(index)
            if result is not None:
                self._deliver(future, waiting.collector, result, time.time())
            elif index in waiting.futures:
                waiting.more.setdefault(index, []).append(future)
            else:
                waiting.futures[index] = future
                self._waiting_for += 1
        self.look_at_all()

    def look_at_all(self) -> None:
        """Look into the store for every bundle that is awaited."""
        for bundle in list(self.pending):
            self._look(bundle)

    def look_at_overdue(self, now: float) -> None:
        """Look into the store for bundles that have waited long since the last look, for some of them each time."""
        looks = 0
        for bundle, waiting in list(self.pending.items()):
            if waiting.limits:
                self._ask_for_late(bundle, waiting, now)
            if now >= waiting.next_look and looks < _LOOKS_PER_SWEEP:
                looks += 1
                waiting.look_wait_s = min(_LONGEST_LOOK_S, waiting.look_wait_s * 2)
                waiting.next_look = now + waiting.look_wait_s
                self._look(bundle)

    def _ask_for_late(self, bundle: UUID, waiting: _Waiting, now: float) -> None:
        """Let the service see to tasks that have waited too long: their pool may be away, and would do it later."""
        for index, end in list(waiting.limits.items()):
            future = waiting.futures.get(index)
            if future is None or future.running():
                del waiting.limits[index]
            elif now >= end + _LATE_S:
                waiting.limits[index] = now + _LONGEST_LOOK_S
                self._session.spawn(self._ask_for(task_id(bundle, index)), "ask for a late task")

    async def _ask_for(self, task: UUID) -> None:
        with contextlib.suppress(HeadraceError):
            await asyncio.get_running_loop().run_in_executor(None, self._session.service.get_task, task)

    def give_up(self, error: BaseException, why: str = CLOSED) -> None:
        """Fail every future that still waits, and take no more tasks: whoever brings one is told `why`."""
        self.cancellations.close()
        for draft in (*self._outbox.close(why), *self._large.close(why)):
            _fail(draft.pending(), error)
            self._session.sources.let_go(draft.sources)
        for waiting in self.pending.values():
            _fail([*waiting.futures.values(), *itertools.chain(*waiting.more.values())], error)
        self.pending.clear()
        self._session.allowance.wake()

    def _address(self, bundle: UUID) -> Address:
        grant = self._session.grant
        return Address(
            endpoint=grant.endpoint, pool=grant.pool, principal=grant.principal, group=self.group, bundle=bundle
        )

    def _waiting(self, bundle: UUID, futures: dict[int, TaskFuture], total: int | None = None) -> _Waiting:
        collector = ResultCollector(self._address(bundle), self._session.grant.result_keys, total=total)
        return _Waiting(collector, futures, time.monotonic() + _FIRST_LOOK_S)

    def _start_sending(self, draft: Draft) -> None:
        self._sending[draft.id] = []
        self._session.spawn(self._send(draft), "send bundle")

    async def _send(self, draft: Draft) -> None:
        try:
            tasks = draft.live_tasks()
            if tasks:
                futures = {i: f for i, f in enumerate(draft.futures) if f is not None and not f.done()}
                # Awaited before it is sent: the result may be here before the ack is.
                self.pending[draft.id] = self._waiting(draft.id, futures, total=len(tasks))
                self._waiting_for += len(futures)
                if draft.sources:
                    await self._session.transfers.bring(self._address(draft.id), draft.sources)
                await self._store(draft, tasks)
                self._limit(draft, tasks)
            else:
                self._session.allowance.ended()
        except HeadraceError as error:
            self._forget(draft.id)
            _fail(draft.pending(), _refused(error))
        except asyncio.CancelledError:
            self._forget(draft.id)
            _fail(draft.pending(), SubmissionRefused("the client was closed before the task was known to be stored"))
            raise
        except BaseException as error:
            self._forget(draft.id)
            _fail(draft.pending(), SubmissionRefused(f"the task could not be sent: {error!r}"))
            raise
        finally:
            if to_cancel := self._sending.pop(draft.id, None):
                self.cancellations.add(to_cancel)
            self._session.allowance.stored()
            self._session.sources.let_go(draft.sources)
            (self._large if draft.sources else self._outbox).sent(draft)

    async def _store(self, draft: Draft, tasks: list[Any]) -> None:
        session = self._session
        retry = False
        while True:
            await session.wait_usable()
            try:
                functions = await session.lasting(draft.functions)
            except (ServiceUnreachable, ServiceUnavailable):
                await asyncio.sleep(_RENEW_RETRY_S)
                continue
            grant = session.grant
            subject = self._address(draft.id).task_subject
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

    def _limit(self, draft: Draft, tasks: list[Task]) -> None:
        limits_s = [options.queue_timeout_s for options in draft.options]
        waiting = self.pending.get(draft.id)
        if waiting is not None and any(limits_s):
            now = time.monotonic()
            timed = ((task.index, limits_s[task.options]) for task in tasks)
            waiting.limits = {index: now + limit_s for index, limit_s in timed if limit_s is not None}

    def _on_result(self, message: Message) -> None:
        try:
            address = ResultAddress.of_subject(message.subject)
        except DecodeError:
            return
        waiting = self.pending.get(address.bundle)
        if waiting is None or address.endpoint != self._session.grant.endpoint:
            return
        self._take(address.bundle, waiting, waiting.collector.add(live_part(message, waiting.collector.result_key)))
        if waiting.collector.gap:
            self._look(address.bundle)

    def _on_started(self, message: Message) -> None:
        *_, bundle, index = message.subject.split(".")
        waiting = self.pending.get(UUID(bundle))
        if waiting is not None and (future := waiting.futures.get(int(index))) is not None:
            for each in (future, *waiting.more.get(int(index), ())):
                each.begin()

    def _look(self, bundle: UUID) -> None:
        waiting = self.pending.get(bundle)
        if waiting is not None and not waiting.looking:
            waiting.looking = True
            self._session.spawn(self._catch_up(bundle, waiting), "look for results")

    async def _catch_up(self, bundle: UUID, waiting: _Waiting) -> None:
        try:
            async with self._looks:
                self._take(bundle, waiting, await waiting.collector.catch_up(self._session.connection))
        except (BusUnavailable, PermissionDenied):
            pass  # the next look, or the next connection, tries again
        finally:
            waiting.looking = False

    def _take(self, bundle: UUID, waiting: _Waiting, results: list[TaskResult]) -> None:
        worked_s, ran, now, collector = 0.0, 0, time.time(), waiting.collector
        for result in results:
            if result.attempts:
                worked_s, ran = worked_s + max(0.0, result.ended_at - result.started_at), ran + 1
            future = waiting.futures.pop(result.index, None)
            if future is not None:
                self._waiting_for -= 1
                self._deliver(future, collector, result, now)
            if waiting.more:
                for each in waiting.more.pop(result.index, ()):
                    self._deliver(each, collector, result, now)
        if ran:
            self._outbox.learn(worked_s / ran)
        if waiting.collector.complete or not waiting.futures:
            self._forget(bundle)

    def _forget(self, bundle: UUID) -> None:
        waiting = self.pending.pop(bundle, None)
        if waiting is not None:
            self._waiting_for -= len(waiting.futures)
            self._session.allowance.ended()
            if self.users <= 0 and not self.pending:
                # Its users left before the last result came: futures that are cancelled end at once.
                self._session.spawn(self._session.drop_if_idle(self), "leave channel")

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
            self._session.spawn(self._fetch(future, result), "fetch a large result")
        else:
            _resolve(future, result)

    async def _fetch(self, future: TaskFuture, result: TaskResult) -> None:
        future.attempts = result.attempts
        if not future.begin():
            return
        try:
            future.set_result(await self._session.transfers.value(result.value))
        except HeadraceError as error:
            future.set_exception(error)
        except asyncio.CancelledError:
            future.set_exception(SubmissionRefused("the client was closed before the result came"))
            raise
        except Exception as error:
            future.set_exception(_unreadable(error))

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


def _resolve(future: TaskFuture, result: TaskResult) -> None:
    if future.done():
        return
    future.attempts = result.attempts
    if not future.begin():
        return
    try:
        if result.state == "succeeded":
            future.set_result(decode_value(result.encoding, result.value))
        else:
            future.set_exception(rebuild(decode_failure(result.value)))
    except Exception as error:  # unpickling runs code of users: whatever it raises belongs to this future
        future.set_exception(_unreadable(error))


def _unreadable(error: Exception) -> ResultNotSerialisable:
    unreadable = ResultNotSerialisable(f"the task succeeded, but its result cannot be read here: {error}")
    unreadable.__cause__ = error
    return unreadable


def _fail(futures: Iterable[TaskFuture], error: BaseException) -> None:
    for future in list(futures):
        if future.begin():
            future.set_exception(error)


def _refused(error: HeadraceError) -> BaseException:
    if isinstance(error, TaskError):
        return error
    refused = SubmissionRefused(f"the task was not taken: {error}")
    refused.__cause__ = error
    return refused
