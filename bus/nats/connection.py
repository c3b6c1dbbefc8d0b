"""One connection to NATS that is kept up: over links (`headrace.bus.nats.link`), of which it makes one after the other.

`Connection` survives everything but `close`: it reconnects for ever, it subscribes anew, and `renew` moves it to a new
credential without a gap. Requests that were under way when the connection broke fail with `BusUnavailable`, except in
`store` and `read_last`, which repeat themselves until their time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from headrace.bus.clock import Deadline
from headrace.bus.errors import BusError, BusUnavailable, PermissionDenied
from headrace.bus.installation.credentials import Credentials
from headrace.bus.nats.answers import Batch, Stored, StoredMessage, read_direct, read_document, read_stored
from headrace.bus.nats.link import Callback, Link, message_too_large
from headrace.bus.nats.listening import Subscription, Subscriptions
from headrace.bus.nats.message import Message
from headrace.bus.nats.reaching import LONGEST_WAIT_S, Server
from headrace.bus.nats.requests import Requests
from headrace.bus.network import DIRECT, Network, Way

logger = logging.getLogger(__name__)

RETRY_HEADER = "Headrace-Retry"
MESSAGE_ID_HEADER = "Nats-Msg-Id"
EXPECTED_SEQUENCE_HEADER = "Nats-Expected-Last-Subject-Sequence"

_RECONNECT_WAIT_S = 0.1
_REFUSED_WAIT_S = 1.0
_ANSWER_WAIT_S = 5.0
_RETIRE_S = 2.0
_DENIED = re.compile(r"Permissions Violation for (?:Publish|Subscription) to \"([^\"]+)\"")


class Connection:
    """A connection to the bus. Use as `async with Connection(urls, credentials, …) as connection`.

    `on_connected` is called after each reconnect and renewal, `on_closed` when the server ended the connection for
    good (an expired credential): then `renew`; `on_denied` with each subject that the credential does not allow.
    """

    def __init__(
        self,
        urls: Sequence[str],
        credentials: Credentials,
        *,
        name: str,
        connect_timeout_s: float = 5.0,
        network: Network = DIRECT,
        longest_wait_s: float = LONGEST_WAIT_S,
    ) -> None:
        """A server that is away is knocked at every `longest_wait_s` at the latest."""
        self._network = network
        self._server = Server(urls, network, longest_wait_s=longest_wait_s)
        self._credentials = credentials
        self._name = name
        self._connect_timeout_s = connect_timeout_s
        self._link: Link | None = None
        self._requests = Requests()
        self._subscriptions = Subscriptions()
        self._batches = itertools.count(1)
        self._generation = 0
        self._reconnecting: asyncio.Task[None] | None = None
        self._unique = uuid.uuid4().hex
        self._up = asyncio.Event()
        self._closing = False
        self.on_connected: list[Callable[[], None]] = []
        self.on_closed: list[Callable[[], None]] = []
        self.on_denied: list[Callable[[str], None]] = []

    async def __aenter__(self) -> Connection:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect. Raises `BusUnavailable` when nothing answers within the time limit, `PermissionDenied` when the
        credential is not accepted."""
        self._use(await self._connect(self._credentials))

    async def close(self) -> None:
        """Send what was published and disconnect. Idempotent."""
        self._closing = True
        self._requests.interrupt_all()
        reconnecting, self._reconnecting = self._reconnecting, None
        if reconnecting is not None:
            reconnecting.cancel()
            await asyncio.wait({reconnecting})
        self._subscriptions.leave()
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def renew(self, credentials: Credentials) -> None:
        """Move to a new credential: a second link is made and subscribed before the first one ends, so that for a
        moment a message may come twice, and what is under way is answered. Raises as `open` does, and then nothing
        has changed."""
        link = await self._connect_and_subscribe(credentials)
        if self._closing:
            await link.close()
            raise BusUnavailable(f"the connection to {self._where} is closed")
        old, self._credentials = self._link, credentials
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            self._reconnecting = None
        self._use(link)
        self._tell(self.on_connected)
        if old is not None:
            await self._retire(old)

    @property
    def inbox_prefix(self) -> str:
        """Where this connection alone receives answers now: several may use one credential."""
        return self._own_inbox(self._credentials)

    @property
    def connected(self) -> bool:
        """Whether the connection is up at this moment."""
        return self._link is not None and self._link.is_up

    @property
    def generation(self) -> int:
        """Which link this is, counted from 1: what was known of the server itself may be wrong on another one."""
        return self._generation

    @property
    def max_payload(self) -> int:
        """The largest message, in bytes, that the server takes."""
        return self._linked.info.max_payload

    @property
    def server_version(self) -> str:
        """The server's version, as it says."""
        return self._linked.info.version

    async def wait_connected(self, timeout_s: float | None) -> None:
        """Wait until the connection is up. Raises `BusUnavailable` when the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            raise BusUnavailable(f"no connection to the bus at {self._where} for {timeout_s:g} s") from None

    async def publish(
        self, subject: str, payload: bytes = b"", *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Publish without waiting for anything. Raises `BusUnavailable` and `PayloadTooLarge`."""
        await self._linked.publish(subject, payload, reply, headers)

    async def subscribe(self, subject: str, callback: Callback, *, queue: str = "") -> Subscription:
        """Call `callback` (quick, not blocking) for each message on `subject`, across reconnects; with a `queue`, for
        each that no other subscriber of that name got.

        Raises `BusUnavailable` when the connection is closed.
        """
        return self._subscriptions.add(subject, callback, queue=queue)

    async def subscribe_inbox(self, suffix: str, callback: Callback) -> Subscription:
        """As `subscribe`, on a subject of this connection's own inbox, which moves with the credential."""
        return self._subscriptions.add(suffix, callback, inbox=True)

    async def flush(self, timeout_s: float = _ANSWER_WAIT_S) -> None:
        """Wait until the server has seen everything that was sent. Raises `BusUnavailable`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._linked.flush()
        except TimeoutError:
            raise BusUnavailable(f"the bus has not answered for {timeout_s:g} s") from None

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        timeout_s: float = _ANSWER_WAIT_S,
    ) -> Message:
        """Ask and wait for the one answer. Raises `BusUnavailable` and `PermissionDenied`."""
        return await self._ask(subject, payload, headers, timeout_s)

    async def store(
        self,
        subject: str,
        payload: bytes,
        *,
        headers: dict[str, str] | None = None,
        retry: bool = False,
        timeout_s: float | None = 30.0,
    ) -> Stored:
        """Publish to a stream and wait until the message is stored, repeating as often as it takes.

        Every repetition, and with `retry` the first try as well, carries the retry header: whoever takes the message
        must then look for results of an earlier life. `timeout_s=None` never gives up.

        Raises `AlreadyStored` when the subject holds a message already (perhaps this one, from a try whose answer was
        lost), `RecordConflict` when an expected sequence does not fit, `StreamFull`, `PayloadTooLarge`,
        `PermissionDenied`, `StreamMissing`, and `BusUnavailable` when the time is over.
        """
        if self._link is not None and len(payload) > self.max_payload:
            raise message_too_large(len(payload), self.max_payload)
        if retry:
            headers = {**(headers or {}), RETRY_HEADER: "1"}
        deadline = Deadline(timeout_s)
        while True:
            try:
                answer = await self._ask(subject, payload, headers, deadline.cut(_ANSWER_WAIT_S))
                return read_stored(answer, subject)
            except BusUnavailable as error:
                problem = str(error)
            if not deadline.passed:
                # A client that is down already would fail at once: wait for it instead of spinning.
                await self._pause(deadline)
            # Looked at after the pause: whoever slept in it may be connected again, and must not store what is too old.
            if deadline.passed:
                raise BusUnavailable(f"{subject!r} could not be stored within {timeout_s:g} s: {problem}")
            headers = {**(headers or {}), RETRY_HEADER: "1"}

    async def read_last(self, stream: str, subject: str, *, timeout_s: float = 10.0) -> StoredMessage | None:
        """The message stored last under a subject, or None. Raises `BusUnavailable` and `PermissionDenied`."""
        deadline = Deadline(timeout_s)
        while True:
            try:
                answer = await self._ask(
                    f"$JS.API.DIRECT.GET.{stream}.{subject}", b"", None, deadline.cut(_ANSWER_WAIT_S)
                )
                return read_direct(answer)
            except BusUnavailable as error:
                if deadline.passed:
                    raise BusUnavailable(f"{subject!r} could not be read within {timeout_s:g} s: {error}") from None
            await self._pause(deadline)

    async def read_many(
        self, stream: str, query: dict[str, Any], *, timeout_s: float = 10.0
    ) -> tuple[list[StoredMessage], int]:
        """A direct batch read (NATS ADR-31): the messages, and how many more there are. Only for the service's account.

        `query` is the request's body, for instance `{"seq": 1, "next_by_subj": "a.>", "batch": 500}` or
        `{"multi_last": ["a.>"], "batch": 500}`.
        """
        batch = Batch(stream)
        subscription = await self.subscribe_inbox(f"many{next(self._batches)}", batch.take)
        try:
            await self.publish(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(query), reply=subscription.subject)
            async with asyncio.timeout(timeout_s):
                pending = await batch.end
        except TimeoutError:
            raise BusUnavailable(f"reading {stream} took longer than {timeout_s:g} s") from None
        finally:
            await subscription.cancel()
        return batch.messages, pending

    async def api(self, subject: str, body: dict[str, Any] | None = None, *, timeout_s: float = 10.0) -> dict[str, Any]:
        """Call the JetStream API (`$JS.API.` + subject). Only for the service's account.

        Raises `StreamMissing` for a stream or consumer that is not there, `StreamFull` when resources are exhausted,
        `BusError` for any other refusal, `BusUnavailable` when nothing answers.
        """
        payload = b"" if body is None else msgspec.json.encode(body)
        answer = await self.request(f"$JS.API.{subject}", payload, timeout_s=timeout_s)
        return read_document(answer, subject)

    @property
    def _linked(self) -> Link:
        if self._link is None:
            raise BusUnavailable(f"the connection to {self._where} is closed")
        return self._link

    @property
    def _where(self) -> str:
        return self._server.name

    def _own_inbox(self, credentials: Credentials) -> str:
        return f"{credentials.inbox_prefix}.{self._unique}"

    async def _connect(self, credentials: Credentials) -> Link:
        """A new link by the first way that leads there, within the time limit."""
        try:
            return await self._server.reach(lambda way: self._open_link(way, credentials), self._connect_timeout_s)
        except PermissionDenied:
            raise PermissionDenied(f"the bus at {self._where} does not accept this credential") from None

    async def _connect_and_subscribe(self, credentials: Credentials) -> Link:
        link = await self._connect(credentials)
        try:
            await self._subscriptions.make_over(link, self._own_inbox(credentials))
        except BaseException:
            await link.close()
            raise
        return link

    async def _open_link(self, way: Way, credentials: Credentials) -> Link:
        link = await Link.open(
            way,
            credentials,
            name=self._name,
            network=self._network,
            on_error=self._on_error,
            on_lost=self._on_lost,
        )
        self._generation += 1
        self._requests.answer_on(link, f"{self._own_inbox(credentials)}.a{self._generation}")
        return link

    def _use(self, link: Link) -> None:
        self._link = link
        self._subscriptions.use(link, self.inbox_prefix)
        self._up.set()
        if not link.is_up:  # lost again already
            self._on_lost(link)

    def _on_lost(self, link: Link) -> None:
        self._requests.forget(link)
        if self._link is not link or self._closing:
            return
        self._up.clear()
        if link.refused:
            self._tell(self.on_closed)
        if self._reconnecting is None:
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect(link), name="reconnect")

    async def _reconnect(self, lost: Link) -> None:
        """Connect again, for ever. A credential that is not accepted may be renewed meanwhile: then this is ended."""
        wait_s = _REFUSED_WAIT_S if lost.refused else 0.0
        while True:
            await asyncio.sleep(wait_s)
            try:
                link = await self._connect_and_subscribe(self._credentials)
                break
            except PermissionDenied:
                wait_s = _REFUSED_WAIT_S
                self._tell(self.on_closed)
            except BusError as error:
                wait_s = _RECONNECT_WAIT_S
                logger.debug("Not connected to the bus yet: %s.", error)
        self._reconnecting = None
        logger.info("Connected to the bus again.", extra={"action": "bus_connected", "connection": self._name})
        self._use(link)
        self._tell(self.on_connected)

    def _on_error(self, link: Link, text: str) -> None:
        denied = _DENIED.search(text)
        if denied:
            self._requests.deny(link, denied[1])
            for listener in list(self.on_denied):
                listener(denied[1])
            logger.warning("The bus refused a subject.", extra={"action": "bus_denied", "subject": denied[1]})
        else:
            logger.warning("The bus reported: %s", text, extra={"action": "bus_error", "connection": self._name})

    def _ask(
        self, subject: str, payload: bytes, headers: dict[str, str] | None, timeout_s: float
    ) -> Coroutine[Any, Any, Message]:
        return self._requests.ask(self._linked, subject, payload, headers, timeout_s)

    async def _retire(self, link: Link) -> None:
        """End a link of which nothing more is asked, once it has given what is under way to it."""
        await self._requests.settle(link, within_s=_RETIRE_S)
        with contextlib.suppress(TimeoutError, BusUnavailable):
            async with asyncio.timeout(_RETIRE_S):
                await link.drain()
        await link.close()

    async def _pause(self, deadline: Deadline) -> None:
        with contextlib.suppress(BusUnavailable):
            await self.wait_connected(deadline.cut(_ANSWER_WAIT_S))
        await asyncio.sleep(0.05)

    def _tell(self, listeners: list[Callable[[], None]]) -> None:
        for listener in list(listeners):
            listener()
