"""One link to a NATS server: a socket that is signed in, and what is subscribed over it. It never reconnects.

Messages go to their callbacks as they are read, and what is published is on its way when the loop turns, all of a turn
in one write: a write for each took a service under load a quarter of its time. Nothing else is in between.
`headrace.bus.nats.connection` keeps a link up.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from headrace.bus.errors import BusError, BusUnavailable, PayloadTooLarge, PermissionDenied, ProtocolBroken
from headrace.bus.installation.credentials import Credentials
from headrace.bus.nats.dialling import dial
from headrace.bus.nats.message import Message, headers_block, parse_headers
from headrace.bus.nats.reader import Reader
from headrace.bus.nats.websocket import CLOSE, FrameWriter, Intake, end_text
from headrace.bus.network import DIRECT, Network, Way

logger = logging.getLogger(__name__)

_PING_S = 30.0
_JOIN_BYTES = 32 * 1024
_MOST_WAITING_BYTES = 2 * 1024 * 1024
_CLOSE_S = 2.0
_BLANK = re.compile(r"[\s\x00]")
_NOT_ACCEPTED = ("authorization", "authentication", "credentials")

Callback = Callable[[Message], None]


class Info(msgspec.Struct):
    """What the server says about itself."""

    version: str = ""
    max_payload: int = 1 << 20
    nonce: str = ""
    tls_required: bool = False


class Link(asyncio.BufferedProtocol):
    """Use `open`, and `close` at the end. `on_error` gets what the server complains about, `on_lost` comes once, when
    the link is over for whatever reason but a failure of `open`."""

    def __init__(self, way: Way, *, on_error: Callable[[Link, str], None], on_lost: Callable[[Link], None]) -> None:
        self.way = way
        self.info = Info()
        self.refused = False
        """Whether the server ended it because it does not accept the credential (any more)."""
        self._on_error = on_error
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self.intake: Intake = Reader(self._on_message, self._on_word)
        """Who takes what is read; while the way is prepared, and with WebSockets, somebody before the reader."""
        self._callbacks: dict[int, Callback] = {}
        self._greeted: asyncio.Future[None] = self._loop.create_future()
        self._waited_for = [self._greeted]
        self._signed_in = False
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self._pongs: collections.deque[asyncio.Future[None]] = collections.deque()
        self._writable = asyncio.Event()
        self._writable.set()
        self._over = asyncio.Event()
        self._reason = "the connection was closed"
        self._complaint = ""
        self._pinging: asyncio.TimerHandle | None = None

    @classmethod
    async def open(
        cls,
        way: Way,
        credentials: Credentials,
        *,
        name: str,
        network: Network = DIRECT,
        on_error: Callable[[Link, str], None],
        on_lost: Callable[[Link], None],
    ) -> Link:
        """Connect and sign in. Raises `BusUnavailable`, `PermissionDenied` when the credential is not accepted, and
        `NetworkUnusable`. It has no time limit of its own."""
        link = cls(way, on_error=on_error, on_lost=on_lost)
        try:
            await link._connect(network)
            await link._sign_in(credentials, name)
        except (OSError, ssl.SSLError) as error:
            link._abort()
            raise BusUnavailable(str(error) or type(error).__name__) from error
        except BaseException:
            link._abort()
            raise
        link._signed_in = True
        link._pinging = link._loop.call_later(_PING_S, link._beat)
        return link

    @property
    def is_up(self) -> bool:
        """Whether it can be used."""
        return self._signed_in and not self._over.is_set()

    async def publish(
        self, subject: str, payload: bytes, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a message on its way; waits only while too much is on its way already.

        Raises `BusUnavailable`, `PayloadTooLarge`, and `BusError` for what cannot be a subject or a header.
        """
        if not self.is_up or self._transport is None:
            raise BusUnavailable("the bus is not available: not connected")
        if not subject or _BLANK.search(subject) or _BLANK.search(reply):
            raise BusError(f"not a subject that the bus can carry: {subject!r}")
        if len(payload) > self.info.max_payload:
            raise message_too_large(len(payload), self.info.max_payload)
        if headers:
            try:
                block = headers_block(headers)
            except ValueError as error:
                raise BusError(f"not a header that the bus can carry: {error}") from error
            head = f"HPUB {subject} {reply} {len(block)} {len(block) + len(payload)}\r\n".encode() + block
        else:
            head = f"PUB {subject} {reply} {len(payload)}\r\n".encode()
        if len(payload) < _JOIN_BYTES:
            self._send(b"".join((head, payload, b"\r\n")))
        else:
            self._write_out()
            self._transport.writelines((head, payload, b"\r\n"))
        if not self._writable.is_set():
            await self._writable.wait()

    def subscribe(self, number: int, subject: str, callback: Callback, *, queue: str = "") -> None:
        """Have `callback` called for each message on `subject`; `number` is the subscriber's own choice. Of those who
        name the same `queue` each message has one."""
        if not subject or _BLANK.search(subject) or _BLANK.search(queue):
            raise BusError(f"not a subject that the bus can carry: {subject!r}")
        self._callbacks[number] = callback
        self._send(f"SUB {subject} {queue} {number}\r\n".encode())

    def unsubscribe(self, number: int) -> None:
        """End a subscription; nothing happens when there is none."""
        if self._callbacks.pop(number, None) is not None:
            self._send(f"UNSUB {number}\r\n".encode())

    async def flush(self) -> None:
        """Wait until the server has seen everything that was sent, without a time limit. Raises `BusUnavailable`."""
        if not self.is_up:
            raise BusUnavailable("the bus is not available: not connected")
        await self._ping()

    async def drain(self) -> None:
        """End the subscriptions, and wait until what was under way to them has come. Raises `BusUnavailable`."""
        for number in self._callbacks:
            self._send(f"UNSUB {number}\r\n".encode())
        await self.flush()

    async def close(self) -> None:
        """Send what waits and disconnect. Idempotent."""
        if self._transport is not None:
            self._write_out()
            self._transport.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._over.wait()
            self._abort()

    # Signing in

    async def _connect(self, network: Network) -> None:
        place = await dial(self, lambda: self, self.way, network)
        await self.unless_lost(self._greeted)
        if (self.info.tls_required or place.scheme == "tls") and not place.is_websocket:
            tls = network.ssl_context()
            self.use(await self._loop.start_tls(self.transport, self, tls, server_hostname=place.host))

    async def _sign_in(self, credentials: Credentials, name: str) -> None:
        document = {
            "verbose": False,
            "pedantic": False,
            "lang": "python-headrace",
            "version": "1",
            "protocol": 1,
            "headers": True,
            "no_responders": True,
            "name": name,
            **credentials.proof(self.info.nonce),
        }
        self._send(b"CONNECT " + msgspec.json.encode(document) + b"\r\n")
        await self._ping()

    # What dialling uses

    @property
    def transport(self) -> Any:
        """What is written to. Raises `BusUnavailable` when the connection is over already."""
        if self._transport is None or self._over.is_set():
            raise BusUnavailable(f"the bus is not available: {self._reason}")
        return self._transport

    def use(self, transport: Any) -> None:
        """Write to this one from here on."""
        self._transport = transport  # uvloop's has the methods, not the base class
        transport.set_write_buffer_limits(_MOST_WAITING_BYTES)

    def on_control(self, kind: int, content: bytes) -> None:
        """A WebSocket frame came that is no data."""
        if isinstance(self._transport, FrameWriter):
            self._transport.answer(kind, content)
        if kind == CLOSE:
            # Why, it mostly has said before, in its own words.
            self._end(self._complaint or end_text(content))

    async def unless_lost(self, answered: asyncio.Future[None]) -> None:
        """Wait for an answer. Raises `BusUnavailable` when the connection ends first."""
        if self._over.is_set() and not answered.done():
            raise BusUnavailable(f"the bus is not available: {self._reason}")
        self._waited_for.append(answered)
        await answered

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self.use(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        return self.intake.space()

    def buffer_updated(self, nbytes: int) -> None:
        """Something was read."""
        try:
            self.intake.filled(nbytes)
        except ProtocolBroken as error:
            self._end(str(error))

    def pause_writing(self) -> None:
        """Too much waits to be sent."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It does not any more."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        if exc is not None:
            self._reason = str(exc) or type(exc).__name__
        self._over.set()
        self._writable.set()
        if self._pinging is not None:
            self._pinging.cancel()
        error = (
            PermissionDenied(self._reason)
            if self.refused
            else BusUnavailable(f"the bus is not available: {self._reason}")
        )
        for waiting in (*self._waited_for, *self._pongs):
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # nobody may be waiting any more
        if self._signed_in:
            self._on_lost(self)

    # What the server says

    def _on_message(self, number: int, subject: str, reply: str, headers: bytes, data: bytes) -> None:
        callback = self._callbacks.get(number)
        if callback is None:
            return
        try:
            callback(Message(subject, data, reply, parse_headers(headers)))
        except Exception:
            logger.exception("A message on %s could not be taken.", subject, extra={"action": "message_failed"})

    def _on_word(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        if word == b"PING":
            self._send(b"PONG\r\n")
        elif word == b"PONG":
            if self._pongs and not (answered := self._pongs.popleft()).done():
                answered.set_result(None)
        elif word == b"INFO":
            self._on_info(rest)
        elif word == b"-ERR":
            self._on_complaint(rest.decode("utf-8", "replace").strip().strip("'"))
        elif word != b"+OK":
            raise ProtocolBroken(f"unexpected: {line[:80]!r}")

    def _on_info(self, document: bytes) -> None:
        try:
            self.info = msgspec.json.decode(document, type=Info)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ProtocolBroken(f"the server's greeting cannot be read: {error}") from error
        if not self._greeted.done():
            self._greeted.set_result(None)

    def _on_complaint(self, text: str) -> None:
        self._reason = self._complaint = text
        if any(sign in text.lower() for sign in _NOT_ACCEPTED):
            self.refused = True
        if self._signed_in:
            self._on_error(self, text)

    # Small things

    def _send(self, data: bytes) -> None:
        if self._transport is None or self._over.is_set():
            return
        if not self._outgoing:
            self._loop.call_soon(self._write_out)
        self._outgoing.append(data)
        self._outgoing_bytes += len(data)
        if self._outgoing_bytes >= _JOIN_BYTES:
            # Not more: whoever publishes in a loop must come to feel when too much is on its way.
            self._write_out()

    def _write_out(self) -> None:
        data, self._outgoing, self._outgoing_bytes = self._outgoing, [], 0
        if data and self._transport is not None and not self._over.is_set():
            self._transport.write(data[0] if len(data) == 1 else b"".join(data))

    async def _ping(self) -> None:
        if self._over.is_set():
            raise BusUnavailable(f"the bus is not available: {self._reason}")
        answered: asyncio.Future[None] = self._loop.create_future()
        self._pongs.append(answered)
        self._send(b"PING\r\n")
        # Answers come in order: a place in the line that is given up must stay.
        await asyncio.shield(answered)

    def _beat(self, last: asyncio.Future[None] | None = None) -> None:
        """Ping once in a while; a link whose last ping has no answer by then is dead."""
        if last is not None and not last.done():
            self._end("the server has not answered for a while")
            return
        answered: asyncio.Future[None] = self._loop.create_future()
        self._pongs.append(answered)
        self._send(b"PING\r\n")
        self._pinging = self._loop.call_later(_PING_S, self._beat, answered)

    def _end(self, reason: str) -> None:
        self._reason = reason
        self._abort()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def message_too_large(size: int, limit: int) -> PayloadTooLarge:
    """What to raise for a message of more bytes than the server takes."""
    return PayloadTooLarge(
        f"a message of {size} bytes is larger than the bus takes ({limit} bytes)", size=size, limit=limit
    )
