"""A session: this process's way to one pool of one endpoint, with a credential that the service granted.

    Session        one NATS connection and the keys of one grant, renewed at half of its life
    └── Channel    the tasks of one task group in that session
        └── Awaited    their results

Everything but what says otherwise runs on the loop thread.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from headrace.bus.clock import elapsed_s
from headrace.bus.errors import SubmissionRefused
from headrace.bus.nats.connection import Connection
from headrace.bus.tasks.bundles import FunctionUse, Runtime
from headrace.schemas import HeadraceError
from headrace.sdk.allowance import Allowance, QueueLimit
from headrace.sdk.channel import Channel
from headrace.sdk.errors import Forbidden, NotFound, ServiceUnreachable, Unauthorized
from headrace.sdk.grant import Grant
from headrace.sdk.http import headrace_version
from headrace.sdk.loop import LoopThread
from headrace.sdk.outbox import LARGEST_CAP
from headrace.sdk.payloads import Sources, Transfers
from headrace.sdk.service import Service

logger = logging.getLogger(__name__)

_SWEEP_S = 2.5
_RENEW_RETRY_S = 2.0
_MAY_SUBMIT_AGAIN_S = 3.0
"""How often a session is asked for anew that may not submit."""
_REFUSED_TIMES = 3
_KEY_MARGIN_S = 10.0
_LEAST_KEY_S = 0.25


class Session:
    """Use `Session.open`, then `channel` for each task group; `close` when the client is closed."""

    def __init__(
        self,
        service: Service,
        thread: LoopThread,
        grant: Grant,
        user_endpoint_config: dict[str, Any] | None,
        environment: str = "",
    ) -> None:
        self.grant = grant
        self.thread = thread
        self.service = service
        self._config = user_endpoint_config
        self._environment = environment
        self.connection = Connection(
            grant.urls, grant.credentials, name="headrace-sdk", connect_timeout_s=10.0, network=service.network
        )
        self.runtime = Runtime(
            python=platform.python_version(),
            headrace=headrace_version(),
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
        cls,
        service: Service,
        thread: LoopThread,
        grant: Grant,
        user_endpoint_config: dict[str, Any] | None,
        environment: str = "",
    ) -> Session:
        """Connect with a grant. Any thread but the loop's. Raises `BusError`."""
        session = cls(service, thread, grant, user_endpoint_config, environment)
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
        use = self.service.grant_function(self.grant.endpoint, function_id, self.grant.pool)
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
                await channel.awaited.start()
                self._channels[group] = channel
            channel.users += 1
            return channel

    async def leave(self, channel: Channel) -> None:
        """Give a channel back; the last user's leave ends its subscription once nothing is pending."""
        channel.users -= 1
        await self.drop_if_idle(channel)

    async def drop_if_idle(self, channel: Channel) -> None:
        """End a channel's subscription if nobody uses it and nothing is pending."""
        if channel.idle:
            self._channels.pop(channel.group, None)
            await channel.awaited.stop()

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
            refused = 0
            while True:
                if elapsed_s() - self._granted_at > self.grant.expires_in_s:
                    self._usable.clear()
                try:
                    await self._renew_once()
                    break
                except HeadraceError as error:
                    # Not at the first time: something between us and the service may say so while it restarts.
                    refused = refused + 1 if isinstance(error, NotFound | Unauthorized | Forbidden) else 0
                    if refused >= _REFUSED_TIMES:
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
        """The endpoint is there no more, or not for us, or our token is not good any more: nothing will ever come."""
        logger.error("The session has ended; giving up what waits for it: %s", error, extra={"action": "session_ended"})
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
        try:
            # A pool that sleeps meanwhile sleeps on: the first task wakes it. (The default pool never does.)
            wanted = not (self._config or self._environment)
            given = self.grant.endpoint, self._config, wanted, self._environment
            opening = loop.run_in_executor(None, self.service.open_session, *given)
        except RuntimeError as error:
            raise ServiceUnreachable(
                f"this program ends, and asks nothing any more: {error}", was_sent=False
            ) from error
        document = await opening
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
            channel.awaited.look_at_all()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.monotonic()
            for channel in list(self._channels.values()):
                channel.awaited.look_at_overdue(now)
