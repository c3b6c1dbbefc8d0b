"""One connection to NATS: the only module that holds a client, and the border where its errors become ours.

`Connection` survives everything but `close`: it reconnects for ever, it subscribes anew, and `renew` moves it to a new
credential without a gap. Requests that were under way when the connection broke fail with `BusUnavailable`, except in
`store` and `read_last`, which repeat themselves until their time limit.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import nats.aio.client
import nats.errors
import nkeys
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from headrace.bus.credentials import Credentials
from headrace.bus.errors import (
    AlreadyStored,
    BusError,
    BusUnavailable,
    ConsumerOverlaps,
    PayloadTooLarge,
    PermissionDenied,
    RecordConflict,
    StreamFull,
    StreamMissing,
)

logger = logging.getLogger(__name__)

RETRY_HEADER = "Headrace-Retry"
MESSAGE_ID_HEADER = "Nats-Msg-Id"
EXPECTED_SEQUENCE_HEADER = "Nats-Expected-Last-Subject-Sequence"

_READ_BYTES = 256 * 1024
_RECONNECT_WAIT_S = 0.1
_ANSWER_WAIT_S = 5.0
_LONGEST_FLUSH_S = 3600
_RETIRE_S = 2.0
_FULL = ("maximum bytes", "maximum messages", "insufficient", "no space left", "resource limits exceeded")
_OVERLAPS = 10100
_DENIED = re.compile(r"permissions violation for (?:publish|subscription) to \"([^\"]+)\"", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it came. `headers` has at least "Status" when the server answers instead of a peer."""

    subject: str
    data: bytes
    reply: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The server's status code, or 0 when this is an ordinary message."""
        return int(self.headers.get("Status", "0") or 0)


@dataclass(frozen=True, slots=True)
class Stored:
    """The server's word that a message is stored. `duplicate`: it was stored before, under the same message id."""

    sequence: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message read from a stream; `time` is when it was stored (RFC 3339, the server's clock)."""

    subject: str
    data: bytes
    sequence: int
    time: str
    headers: Mapping[str, str]

    @property
    def stored_at(self) -> float:
        """When it was stored: unix seconds, the server's clock."""
        return datetime.fromisoformat(self.time).timestamp()


class _ApiFault(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _StoreAnswer(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: _ApiFault | None = None


_decode_answer = msgspec.json.Decoder(_StoreAnswer).decode

Callback = Callable[[Message], None]


class _Interrupted(Exception):
    """The connection broke while a request was under way: nobody knows whether it arrived."""


@dataclass(frozen=True, slots=True)
class _Link:
    """A client that is connected, and the subject below which its answers come."""

    client: NatsClient
    answers: str


class _Asked(NamedTuple):
    """A request that waits for its answer, and the client that sent it."""

    subject: str
    answer: asyncio.Future[Message]
    client: NatsClient


@dataclass(eq=False, slots=True)
class Subscription:
    """A subscription that outlives reconnects and renewals; `cancel` ends it."""

    _connection: Connection
    _subject: str
    _inbox: bool
    _callback: Callback
    _handle: Any = None

    @property
    def subject(self) -> str:
        """What is subscribed now; an inbox moves with the credential."""
        return self._subject_of(self._connection.inbox_prefix)

    def _subject_of(self, inbox_prefix: str) -> str:
        return f"{inbox_prefix}.{self._subject}" if self._inbox else self._subject

    async def cancel(self) -> None:
        """End the subscription."""
        await self._connection._forget(self)


class Connection:
    """A connection to the bus. Use as `async with Connection(urls, credentials, …) as connection`.

    `on_connected` is called after each successful (re)connect
    and renewal, `on_closed` when the server ended the connection for good (an expired credential): then `renew`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        credentials: Credentials,
        *,
        name: str,
        connect_timeout_s: float = 5.0,
    ) -> None:
        self._urls = list(urls)
        self._credentials = credentials
        self._name = name
        self._connect_timeout_s = connect_timeout_s
        self._link: _Link | None = None
        self._subscriptions: list[Subscription] = []
        self._answers: dict[str, _Asked] = {}
        self._flushes: dict[asyncio.Future[None], NatsClient] = {}
        self._tokens = itertools.count(1)
        self._generation = 0
        self._unique = uuid.uuid4().hex
        self._up = asyncio.Event()
        self._closing = False
        self.on_connected: list[Callable[[], None]] = []
        self.on_closed: list[Callable[[], None]] = []

    async def __aenter__(self) -> Connection:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect. Raises `BusUnavailable` when nothing answers within the time limit, `PermissionDenied` when the
        credential is not accepted."""
        self._link = await self._connect(self._credentials)
        self._up.set()

    async def close(self) -> None:
        """Flush what was published and disconnect. Idempotent."""
        self._closing = True
        self._interrupt()
        link, self._link = self._link, None
        if link is not None:
            await _close_client(link.client)
            self._end_flushes(link.client)

    async def renew(self, credentials: Credentials) -> None:
        """Move to a new credential: a second connection is made and subscribed before the first one ends, so that for
        a moment a message may come twice, and what is under way is answered. Raises as `open` does, and then nothing
        has changed."""
        link = await self._connect(credentials)
        try:
            handles = await self._subscribe_all(link.client, credentials)
        except BaseException:
            await _close_client(link.client)
            raise
        old, self._link = self._link, link
        self._credentials = credentials
        for subscription, handle in handles.items():
            subscription._handle = handle
        self._up.set()
        self._tell(self.on_connected)
        for subscription in handles.keys() - set(self._subscriptions):
            await _unsubscribe(subscription)  # cancelled meanwhile
        if old is not None:
            await self._retire(old.client)

    @property
    def inbox_prefix(self) -> str:
        """Where this connection alone receives answers now: several may use one credential."""
        return self._own_inbox(self._credentials)

    @property
    def connected(self) -> bool:
        """Whether the connection is up at this moment."""
        return self._link is not None and bool(self._link.client.is_connected)

    @property
    def max_payload(self) -> int:
        """The largest message, in bytes, that the server takes."""
        return int(self._nats.max_payload)

    @property
    def server_version(self) -> str:
        """The server's version, as it says."""
        return str(self._nats.connected_server_version)

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
        with translated_errors():
            await self._nats.publish(subject, payload, reply=reply, headers=headers)

    async def subscribe(self, subject: str, callback: Callback) -> Subscription:
        """Call `callback` (quick, not blocking) for each message on `subject`, across reconnects."""
        return await self._subscribe(Subscription(self, subject, False, callback))

    async def subscribe_inbox(self, suffix: str, callback: Callback) -> Subscription:
        """As `subscribe`, on a subject of this connection's own inbox, which moves with the credential."""
        return await self._subscribe(Subscription(self, suffix, True, callback))

    async def flush(self, timeout_s: float = _ANSWER_WAIT_S) -> None:
        """Wait until the server has seen everything that was sent. Raises `BusUnavailable`."""
        # In a task of its own, which outlives the waiting: when a flush is given up and its answer comes after all, the
        # client stops to read for good.
        client = self._nats
        flushing = asyncio.ensure_future(client.flush(timeout=_LONGEST_FLUSH_S))
        self._flushes[flushing] = client
        flushing.add_done_callback(self._flushed)
        await asyncio.wait((flushing,), timeout=timeout_s)
        if not flushing.done() or flushing.cancelled():
            raise BusUnavailable(f"the bus at {self._where} does not answer within {timeout_s:g} s")
        with translated_errors():
            flushing.result()

    def _flushed(self, flushing: asyncio.Future[None]) -> None:
        self._flushes.pop(flushing, None)
        if not flushing.cancelled():
            flushing.exception()  # looked at: perhaps nobody waits any more

    def _end_flushes(self, client: NatsClient) -> None:
        """End flushes that no answer will come to."""
        for flushing, flushed in list(self._flushes.items()):
            if flushed is client:
                flushing.cancel()

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        timeout_s: float = _ANSWER_WAIT_S,
    ) -> Message:
        """Ask and wait for the one answer. Raises `BusUnavailable`, `PermissionDenied`, `StreamMissing`."""
        try:
            return await self._ask(subject, payload, headers, timeout_s)
        except _Interrupted:
            raise BusUnavailable(f"the connection to the bus broke while {subject!r} was under way") from None

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
            limit = self.max_payload
            raise PayloadTooLarge(
                f"a message of {len(payload)} bytes is larger than the bus takes ({limit} bytes)",
                size=len(payload),
                limit=limit,
            )
        if retry:
            headers = {**(headers or {}), RETRY_HEADER: "1"}
        deadline = _Deadline(timeout_s)
        while True:
            try:
                answer = await self._ask(subject, payload, headers, deadline.cut(_ANSWER_WAIT_S))
                return _stored(answer, subject)
            except (_Interrupted, BusUnavailable) as error:
                if deadline.passed:
                    raise BusUnavailable(f"{subject!r} could not be stored within {timeout_s:g} s: {error}") from None
            # A client that is down already would fail at once: wait for it instead of spinning.
            await self._pause(deadline)
            headers = {**(headers or {}), RETRY_HEADER: "1"}

    async def read_last(self, stream: str, subject: str, *, timeout_s: float = 10.0) -> StoredMessage | None:
        """The message stored last under a subject, or None. Raises `BusUnavailable` and `PermissionDenied`."""
        deadline = _Deadline(timeout_s)
        while True:
            try:
                answer = await self._ask(
                    f"$JS.API.DIRECT.GET.{stream}.{subject}", b"", None, deadline.cut(_ANSWER_WAIT_S)
                )
                return _read(answer)
            except (_Interrupted, BusUnavailable) as error:
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
        messages: list[StoredMessage] = []
        end: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def on_message(message: Message) -> None:
            if end.done():
                return
            if message.status == 0:
                messages.append(_stored_message(message))
                if "Nats-Num-Pending" not in message.headers:
                    end.set_result(0)
            elif message.status == 204:
                end.set_result(int(message.headers.get("Nats-Num-Pending", "0")))
            elif message.status == 404:
                end.set_result(0)
            elif message.status == 503:
                end.set_exception(StreamMissing(f"the bus has no stream {stream!r}, or it does not answer now"))
            else:
                end.set_exception(BusError(f"reading {stream}: {message.headers.get('Description', message.status)}"))

        suffix = f"many{next(self._tokens)}"
        subscription = await self.subscribe_inbox(suffix, on_message)
        try:
            await self.publish(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(query), reply=subscription.subject)
            async with asyncio.timeout(timeout_s):
                pending = await end
        except TimeoutError:
            raise BusUnavailable(f"reading {stream} took longer than {timeout_s:g} s") from None
        finally:
            await subscription.cancel()
        return messages, pending

    async def api(self, subject: str, body: dict[str, Any] | None = None, *, timeout_s: float = 10.0) -> dict[str, Any]:
        """Call the JetStream API (`$JS.API.` + subject). Only for the service's account.

        Raises `StreamMissing` for a stream or consumer that is not there, `StreamFull` when resources are exhausted,
        `BusError` for any other refusal, `BusUnavailable` when nothing answers.
        """
        payload = b"" if body is None else msgspec.json.encode(body)
        answer = await self.request(f"$JS.API.{subject}", payload, timeout_s=timeout_s)
        if answer.status == 503:
            raise BusUnavailable("JetStream does not answer")
        document: dict[str, Any] = msgspec.json.decode(answer.data)
        if "error" in document:
            raise _fault(msgspec.convert(document["error"], _ApiFault), subject)
        return document

    @property
    def _nats(self) -> NatsClient:
        return self._linked.client

    @property
    def _linked(self) -> _Link:
        if self._link is None:
            raise BusUnavailable(f"the connection to {self._where} is closed")
        return self._link

    @property
    def _where(self) -> str:
        return ", ".join(self._urls)

    def _own_inbox(self, credentials: Credentials) -> str:
        return f"{credentials.inbox_prefix}.{self._unique}"

    async def _connect(self, credentials: Credentials) -> _Link:
        # The client reads in pieces of this size, 32 KB by its own choice: that costs large messages a third more time.
        nats.aio.client.DEFAULT_BUFFER_SIZE = _READ_BYTES
        client = NatsClient()
        self._generation += 1
        mux = f"{self._own_inbox(credentials)}.a{self._generation}"
        errors: list[Exception] = []
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def on_error(error: Exception) -> None:
            errors.append(error)
            if "authorization" in str(error).lower() and not refused.done():
                refused.set_result(None)
            self._on_error(error)

        async def on_disconnected() -> None:
            if self._is_current(client):
                self._up.clear()
            self._interrupt(client)
            self._end_flushes(client)

        async def on_reconnected() -> None:
            if self._is_current(client):
                logger.info("Connected to the bus again.", extra={"action": "bus_connected", "connection": self._name})
                self._up.set()
                self._tell(self.on_connected)

        async def on_closed() -> None:
            if self._is_current(client) and not self._closing:
                self._up.clear()
                self._interrupt(client)
                self._tell(self.on_closed)

        key_pair = nkeys.from_seed(bytearray(credentials.seed.encode()))
        connecting = asyncio.ensure_future(
            client.connect(
                servers=self._urls,
                name=self._name,
                user_jwt_cb=lambda: bytearray(credentials.jwt.encode()),
                signature_cb=lambda nonce: base64.b64encode(key_pair.sign(nonce.encode())),
                inbox_prefix=credentials.inbox_prefix,
                max_reconnect_attempts=-1,
                reconnect_time_wait=_RECONNECT_WAIT_S,  # type: ignore[arg-type]  # it takes fractions of seconds
                error_cb=on_error,
                disconnected_cb=on_disconnected,
                reconnected_cb=on_reconnected,
                closed_cb=on_closed,
            )
        )
        try:
            # Left alone, the client would knock for ever: at a dead server, and with a credential that is refused.
            await asyncio.wait(
                {connecting, refused}, timeout=self._connect_timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not connecting.done():
                raise self._not_connected(errors)
            await connecting
            await client.subscribe(f"{mux}.*", cb=self._on_answer)
        except (OSError, nats.errors.Error) as error:
            await _close_client(client)
            raise self._not_connected([*errors, error]) from error
        except BaseException:
            connecting.cancel()
            await asyncio.wait({connecting})
            await _close_client(client)
            raise
        return _Link(client, mux)

    def _not_connected(self, errors: list[Exception]) -> BusError:
        if any("authorization" in str(error).lower() for error in errors):
            return PermissionDenied(f"the bus at {self._where} does not accept this credential")
        detail = f": {errors[-1]}" if errors and str(errors[-1]) else ""
        return BusUnavailable(f"no NATS server answers at {self._where} within {self._connect_timeout_s:g} s{detail}")

    def _is_current(self, client: NatsClient) -> bool:
        return self._link is not None and self._link.client is client

    def _on_error(self, error: Exception) -> None:
        denied = _DENIED.search(str(error))
        if denied:
            subject = denied[1].lower()
            for asked in list(self._answers.values()):
                if asked.subject.lower() == subject and not asked.answer.done():
                    asked.answer.set_exception(PermissionDenied(f"the credential does not allow {asked.subject!r}"))
            logger.warning("The bus refused a subject.", extra={"action": "bus_denied", "subject": denied[1]})
        elif not isinstance(error, nats.errors.UnexpectedEOF | OSError):
            logger.warning("The bus reported: %s", error, extra={"action": "bus_error", "connection": self._name})

    async def _on_answer(self, message: Msg) -> None:
        asked = self._answers.get(message.subject.rsplit(".", 1)[1])
        if asked is not None and not asked.answer.done():
            asked.answer.set_result(_message(message))

    async def _ask(
        self, subject: str, payload: bytes, headers: dict[str, str] | None, timeout_s: float | None
    ) -> Message:
        link = self._linked
        if not link.client.is_connected:
            raise _Interrupted("not connected")
        token = str(next(self._tokens))
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[token] = _Asked(subject, future, link.client)
        # A timer instead of asyncio.timeout: a third of the cost, on the hottest path there is.
        timer = None if timeout_s is None else future.get_loop().call_later(timeout_s, _time_out, future, subject)
        try:
            with translated_errors():
                await link.client.publish(subject, payload, reply=f"{link.answers}.{token}", headers=headers)
            answer = await future
        finally:
            if timer is not None:
                timer.cancel()
            del self._answers[token]
        if answer.status == 503:
            raise BusUnavailable(f"nobody listens on {subject!r} at this moment")
        return answer

    def _interrupt(self, client: NatsClient | None = None) -> None:
        """End the waiting for answers, of one client or of all."""
        for asked in list(self._answers.values()):
            if not asked.answer.done() and (client is None or asked.client is client):
                asked.answer.set_exception(_Interrupted("the connection broke"))

    async def _retire(self, client: NatsClient) -> None:
        """End a client of which nothing more is asked, once it has given what is under way to it."""
        waiting = [asked.answer for asked in self._answers.values() if asked.client is client]
        if waiting and client.is_connected:
            await asyncio.wait(waiting, timeout=_RETIRE_S)
        self._interrupt(client)
        with contextlib.suppress(TimeoutError, OSError, nats.errors.Error):
            async with asyncio.timeout(_RETIRE_S):
                await client.drain()
        await _close_client(client)
        self._end_flushes(client)

    async def _pause(self, deadline: _Deadline) -> None:
        with contextlib.suppress(BusUnavailable):
            await self.wait_connected(deadline.cut(_ANSWER_WAIT_S))
        await asyncio.sleep(0.05)

    async def _subscribe(self, subscription: Subscription) -> Subscription:
        self._subscriptions.append(subscription)
        await self._subscribe_now(subscription)
        return subscription

    async def _subscribe_now(self, subscription: Subscription) -> None:
        subscription._handle = await _subscribe(self._nats, subscription, self.inbox_prefix)

    async def _subscribe_all(self, client: NatsClient, credentials: Credentials) -> dict[Subscription, Any]:
        """Make all subscriptions, those that come meanwhile as well, at another client; the server knows them then."""
        handles: dict[Subscription, Any] = {}
        while missing := [each for each in self._subscriptions if each not in handles]:
            for subscription in missing:
                handles[subscription] = await _subscribe(client, subscription, self._own_inbox(credentials))
            with translated_errors():
                await client.flush(timeout=max(1, round(_ANSWER_WAIT_S)))
        return handles

    async def _forget(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            await _unsubscribe(subscription)

    def _tell(self, listeners: list[Callable[[], None]]) -> None:
        for listener in list(listeners):
            listener()


class _Deadline:
    def __init__(self, timeout_s: float | None) -> None:
        self._end = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s

    @property
    def passed(self) -> bool:
        return self._end is not None and asyncio.get_running_loop().time() >= self._end

    def cut(self, most_s: float) -> float:
        """The time that is left, at most `most_s`, never quite nothing."""
        if self._end is None:
            return most_s
        return min(most_s, max(0.01, self._end - asyncio.get_running_loop().time()))


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the NATS client's errors into ours."""
    try:
        yield
    except nats.errors.MaxPayloadError as error:
        raise PayloadTooLarge("the message is larger than the bus takes", size=0, limit=0) from error
    except nats.errors.AuthorizationError as error:
        raise PermissionDenied("the bus does not accept this credential") from error
    except (nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
        raise BusError(f"not a subject or header that the bus can carry: {error}") from error
    except (nats.errors.Error, OSError) as error:
        raise BusUnavailable(f"the bus is not available: {error or type(error).__name__}") from error


def _time_out(future: asyncio.Future[Message], subject: str) -> None:
    if not future.done():
        future.set_exception(BusUnavailable(f"no answer on {subject!r} within the time limit"))


def _message(message: Msg) -> Message:
    return Message(message.subject, message.data, message.reply, message.headers or {})


def _stored(answer: Message, subject: str) -> Stored:
    decoded = _decode_answer(answer.data)
    if decoded.error is not None:
        raise _fault(decoded.error, subject)
    return Stored(decoded.seq, decoded.duplicate)


def _fault(fault: _ApiFault, subject: str) -> BusError:  # noqa: PLR0911  # one for each kind of refusal
    text = fault.description.lower()
    if "per subject" in text:
        return AlreadyStored(f"{subject!r} holds a message already")
    if fault.err_code in (10071, 10164) or "wrong last sequence" in text:
        return RecordConflict(f"{subject!r} was changed by somebody else")
    if any(sign in text for sign in _FULL):
        return StreamFull(f"nothing more can be stored under {subject!r} now: {fault.description}")
    if fault.err_code == _OVERLAPS:
        return ConsumerOverlaps(f"{subject!r}: {fault.description}")
    if fault.code == 404:
        return StreamMissing(f"{subject!r}: {fault.description}")
    if fault.code == 503:
        return BusUnavailable(f"{subject!r}: {fault.description}")
    return BusError(f"{subject!r} was refused: {fault.description} (error {fault.err_code})")


def _read(answer: Message) -> StoredMessage | None:
    if answer.status == 404:
        return None
    if answer.status:
        raise BusUnavailable(f"the store answers {answer.status} {answer.headers.get('Description', '')}")
    return _stored_message(answer)


def _stored_message(message: Message) -> StoredMessage:
    headers = message.headers
    return StoredMessage(
        subject=headers["Nats-Subject"],
        data=message.data,
        sequence=int(headers["Nats-Sequence"]),
        time=headers["Nats-Time-Stamp"],
        headers=headers,
    )


async def _subscribe(client: NatsClient, subscription: Subscription, inbox_prefix: str) -> Any:
    callback = subscription._callback

    async def on_message(message: Msg) -> None:
        callback(_message(message))

    with translated_errors():
        return await client.subscribe(subscription._subject_of(inbox_prefix), cb=on_message)


async def _unsubscribe(subscription: Subscription) -> None:
    with contextlib.suppress(nats.errors.Error):
        await subscription._handle.unsubscribe()


async def _close_client(client: NatsClient) -> None:
    closing: Awaitable[None] = client.close()
    with contextlib.suppress(TimeoutError, OSError, nats.errors.Error):
        async with asyncio.timeout(2.0):
            await closing
