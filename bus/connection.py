"""One connection to NATS that is kept up: over links (`headrace.bus.link`), of which it makes one after the other.

`Connection` survives everything but `close`: it reconnects for ever, it subscribes anew, and `renew` moves it to a new
credential without a gap. Requests that were under way when the connection broke fail with `BusUnavailable`, except in
`store` and `read_last`, which repeat themselves until their time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from headrace.bus.clock import elapsed_s
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
from headrace.bus.link import Link
from headrace.bus.message import Message as Message  # noqa: PLC0414 - whoever uses a connection has it from here

logger = logging.getLogger(__name__)

RETRY_HEADER = "Headrace-Retry"
MESSAGE_ID_HEADER = "Nats-Msg-Id"
EXPECTED_SEQUENCE_HEADER = "Nats-Expected-Last-Subject-Sequence"

_RECONNECT_WAIT_S = 0.1
_LONGEST_RECONNECT_WAIT_S = 1.0
_REFUSED_WAIT_S = 1.0
_ATTEMPT_S = 2.0
_ANSWER_WAIT_S = 5.0
_RETIRE_S = 2.0
_FULL = ("maximum bytes", "maximum messages", "insufficient", "no space left", "resource limits exceeded")
_OVERLAPS = 10100
_DENIED = re.compile(r"Permissions Violation for (?:Publish|Subscription) to \"([^\"]+)\"")


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


class _Asked(NamedTuple):
    """A request that waits for its answer, and the link that it went over."""

    subject: str
    answer: asyncio.Future[Message]
    link: Link


@dataclass(eq=False, slots=True)
class Subscription:
    """A subscription that outlives reconnects and renewals; `cancel` ends it."""

    _connection: Connection
    _subject: str
    _inbox: bool
    _callback: Callback
    _number: int

    @property
    def subject(self) -> str:
        """What is subscribed now; an inbox moves with the credential."""
        return self._subject_of(self._connection.inbox_prefix)

    def _subject_of(self, inbox_prefix: str) -> str:
        return f"{inbox_prefix}.{self._subject}" if self._inbox else self._subject

    async def cancel(self) -> None:
        """End the subscription."""
        self._connection._forget(self)


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
        self._link: Link | None = None
        self._answer_subjects: dict[Link, str] = {}
        self._subscriptions: list[Subscription] = []
        self._numbers = itertools.count(1)
        self._answers: dict[str, _Asked] = {}
        self._tokens = itertools.count(1)
        self._generation = 0
        self._reconnecting: asyncio.Task[None] | None = None
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
        self._use(await self._connect(self._credentials))

    async def close(self) -> None:
        """Send what was published and disconnect. Idempotent."""
        self._closing = True
        self._interrupt()
        reconnecting, self._reconnecting = self._reconnecting, None
        if reconnecting is not None:
            reconnecting.cancel()
            await asyncio.wait({reconnecting})
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def renew(self, credentials: Credentials) -> None:
        """Move to a new credential: a second link is made and subscribed before the first one ends, so that for a
        moment a message may come twice, and what is under way is answered. Raises as `open` does, and then nothing
        has changed."""
        link = await self._connect_and_subscribe(credentials)
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

    async def subscribe(self, subject: str, callback: Callback) -> Subscription:
        """Call `callback` (quick, not blocking) for each message on `subject`, across reconnects."""
        return self._subscribe(Subscription(self, subject, False, callback, next(self._numbers)))

    async def subscribe_inbox(self, suffix: str, callback: Callback) -> Subscription:
        """As `subscribe`, on a subject of this connection's own inbox, which moves with the credential."""
        return self._subscribe(Subscription(self, suffix, True, callback, next(self._numbers)))

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
    def _linked(self) -> Link:
        if self._link is None:
            raise BusUnavailable(f"the connection to {self._where} is closed")
        return self._link

    @property
    def _where(self) -> str:
        return ", ".join(self._urls)

    def _own_inbox(self, credentials: Credentials) -> str:
        return f"{credentials.inbox_prefix}.{self._unique}"

    async def _connect(self, credentials: Credentials) -> Link:
        """A new link, within the time limit. A server that does not answer is knocked at again and again."""
        error: BusError | None = None
        wait_s = _RECONNECT_WAIT_S
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                for url in itertools.cycle(self._urls):
                    try:
                        return await self._open_link(url, credentials)
                    except BusUnavailable as unavailable:
                        error = unavailable
                        # Not all clients of a server that is away at the same moments, nor ten times a second.
                        await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - nothing secret
                        wait_s = min(wait_s * 1.5, _LONGEST_RECONNECT_WAIT_S)
        except TimeoutError:
            pass
        except PermissionDenied:
            raise PermissionDenied(f"the bus at {self._where} does not accept this credential") from None
        detail = f": {error}" if error is not None else ""
        raise BusUnavailable(f"no NATS server answers at {self._where} within {self._connect_timeout_s:g} s{detail}")

    async def _connect_and_subscribe(self, credentials: Credentials) -> Link:
        link = await self._connect(credentials)
        try:
            await self._subscribe_all(link, credentials)
        except BaseException:
            await link.close()
            raise
        return link

    async def _open_link(self, url: str, credentials: Credentials) -> Link:
        try:
            async with asyncio.timeout(_ATTEMPT_S):
                link = await Link.open(
                    url, credentials, name=self._name, on_error=self._on_error, on_lost=self._on_lost
                )
        except TimeoutError:
            raise BusUnavailable(f"no answer from {url} within {_ATTEMPT_S:g} s") from None
        self._generation += 1
        self._answer_subjects[link] = f"{self._own_inbox(credentials)}.a{self._generation}"
        link.subscribe(0, f"{self._answer_subjects[link]}.*", self._on_answer)
        return link

    def _use(self, link: Link) -> None:
        self._link = link
        self._up.set()
        if not link.is_up:  # lost again already
            self._on_lost(link)

    def _on_lost(self, link: Link) -> None:
        self._interrupt(link)
        self._answer_subjects.pop(link, None)
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
            for asked in list(self._answers.values()):
                if asked.subject == denied[1] and asked.link is link and not asked.answer.done():
                    asked.answer.set_exception(PermissionDenied(f"the credential does not allow {asked.subject!r}"))
            logger.warning("The bus refused a subject.", extra={"action": "bus_denied", "subject": denied[1]})
        else:
            logger.warning("The bus reported: %s", text, extra={"action": "bus_error", "connection": self._name})

    def _on_answer(self, message: Message) -> None:
        asked = self._answers.get(message.subject.rsplit(".", 1)[1])
        if asked is not None and not asked.answer.done():
            asked.answer.set_result(message)

    async def _ask(
        self, subject: str, payload: bytes, headers: dict[str, str] | None, timeout_s: float | None
    ) -> Message:
        link = self._linked
        if not link.is_up:
            raise _Interrupted("not connected")
        token = str(next(self._tokens))
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[token] = _Asked(subject, future, link)
        # A timer instead of asyncio.timeout: a third of the cost, on the hottest path there is.
        timer = None if timeout_s is None else future.get_loop().call_later(timeout_s, _time_out, future, subject)
        try:
            await link.publish(subject, payload, f"{self._answer_subjects[link]}.{token}", headers)
            answer = await future
        finally:
            if timer is not None:
                timer.cancel()
            del self._answers[token]
        if answer.status == 503:
            raise BusUnavailable(f"nobody listens on {subject!r} at this moment")
        return answer

    def _interrupt(self, link: Link | None = None) -> None:
        """End the waiting for answers, of one link or of all."""
        for asked in list(self._answers.values()):
            if not asked.answer.done() and (link is None or asked.link is link):
                asked.answer.set_exception(_Interrupted("the connection broke"))

    async def _retire(self, link: Link) -> None:
        """End a link of which nothing more is asked, once it has given what is under way to it."""
        waiting = [asked.answer for asked in self._answers.values() if asked.link is link]
        if waiting and link.is_up:
            await asyncio.wait(waiting, timeout=_RETIRE_S)
        self._interrupt(link)
        with contextlib.suppress(TimeoutError, BusUnavailable):
            async with asyncio.timeout(_RETIRE_S):
                await link.drain()
        await link.close()

    async def _pause(self, deadline: _Deadline) -> None:
        with contextlib.suppress(BusUnavailable):
            await self.wait_connected(deadline.cut(_ANSWER_WAIT_S))
        await asyncio.sleep(0.05)

    def _subscribe(self, subscription: Subscription) -> Subscription:
        link = self._linked
        self._subscriptions.append(subscription)
        if link.is_up:  # else the next link begins with it
            link.subscribe(subscription._number, subscription.subject, subscription._callback)
        return subscription

    async def _subscribe_all(self, link: Link, credentials: Credentials) -> None:
        """Make all subscriptions, those that come meanwhile as well, over another link; the server knows them then.

        Raises `BusUnavailable`.
        """
        done: set[Subscription] = set()
        inbox = self._own_inbox(credentials)
        while missing := [each for each in self._subscriptions if each not in done]:
            for each in missing:
                link.subscribe(each._number, each._subject_of(inbox), each._callback)
                done.add(each)
            try:
                async with asyncio.timeout(_ANSWER_WAIT_S):
                    await link.flush()
            except TimeoutError:
                raise BusUnavailable("the bus does not answer") from None
        for each in done - set(self._subscriptions):
            link.unsubscribe(each._number)  # cancelled meanwhile

    def _forget(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            if self._link is not None:
                self._link.unsubscribe(subscription._number)

    def _tell(self, listeners: list[Callable[[], None]]) -> None:
        for listener in list(listeners):
            listener()


class _Deadline:
    def __init__(self, timeout_s: float | None) -> None:
        self._end = None if timeout_s is None else elapsed_s() + timeout_s

    @property
    def passed(self) -> bool:
        return self._end is not None and elapsed_s() >= self._end

    def cut(self, most_s: float) -> float:
        """The time that is left, at most `most_s`, never quite nothing."""
        if self._end is None:
            return most_s
        return min(most_s, max(0.01, self._end - elapsed_s()))


def _time_out(future: asyncio.Future[Message], subject: str) -> None:
    if not future.done():
        future.set_exception(BusUnavailable(f"no answer on {subject!r} within the time limit"))


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
