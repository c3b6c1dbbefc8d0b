"""From a way to the bus to a socket that speaks NATS's protocol: through a proxy, TLS and a WebSocket, as need be."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self
from urllib.parse import SplitResult, unquote, urlsplit

from headrace.bus.errors import BusUnavailable, ProtocolBroken
from headrace.bus.nats.websocket import Frames, FrameWriter, Intake, accepts, feed, new_key, upgrade_request
from headrace.bus.network import Network, Way, shown

_PORTS: Final = {"ws": 80, "wss": 443}
_NATS_PORT: Final = 4222
_PROXY_PORTS: Final = {"http": 80, "https": 443}
_HEAD_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a NATS URL names."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """Raises `BusUnavailable` when it names none."""
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        if not parts.hostname:
            raise BusUnavailable(f"{url!r} names no host")
        return cls(scheme=parts.scheme, host=parts.hostname, port=parts.port or _PORTS.get(parts.scheme, _NATS_PORT))

    @property
    def is_websocket(self) -> bool:
        """Whether NATS is spoken in WebSocket frames there."""
        return self.scheme in ("ws", "wss")

    @property
    def authority(self) -> str:
        """Host and port, as HTTP writes them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Socket(Protocol):
    """The protocol object that is dialled for: what is read goes to its `intake`, `use` gives it its transport."""

    intake: Intake

    @property
    def transport(self) -> Any: ...

    def use(self, transport: Any) -> None: ...

    def on_control(self, kind: int, content: bytes) -> None: ...

    async def unless_lost(self, answered: asyncio.Future[None]) -> None: ...


async def dial(socket: Socket, protocol: Callable[[], asyncio.BaseProtocol], way: Way, network: Network) -> Place:
    """Connect; what the server says of NATS then goes to the intake that was there.

    Raises `BusUnavailable`, `OSError` and `ssl.SSLError`.
    """
    loop, place, intake = asyncio.get_running_loop(), Place.of(way.url), socket.intake
    tls = network.ssl_context() if place.scheme == "wss" else None
    if way.proxy is None:
        name = place.host if tls else None
        await loop.create_connection(protocol, place.host, place.port, ssl=tls, server_hostname=name)
    else:
        await _through_proxy(socket, protocol, place, way.proxy, network)
        if tls is not None:
            socket.use(await loop.start_tls(socket.transport, protocol(), tls, server_hostname=place.host))
    if place.is_websocket:
        await _upgrade(socket, way.url, intake)
    return place


async def _through_proxy(
    socket: Socket, protocol: Callable[[], asyncio.BaseProtocol], place: Place, url: str, network: Network
) -> None:
    proxy = urlsplit(url)
    tls = network.ssl_context() if proxy.scheme == "https" else None
    name = proxy.hostname if tls else None
    try:
        await asyncio.get_running_loop().create_connection(
            protocol, proxy.hostname or "", proxy.port or _PROXY_PORTS[proxy.scheme], ssl=tls, server_hostname=name
        )
    except OSError as error:
        raise BusUnavailable(f"the proxy {shown(url)} cannot be reached: {error}") from error
    intake = socket.intake

    def go_on(answer: Answer) -> Intake:
        if answer.status // 100 != 2:
            raise BusUnavailable(f"the proxy {shown(url)} refuses the way to {place.authority}: {answer.line}")
        return intake

    await _ask(socket, _connect_request(place, proxy), go_on)


async def _upgrade(socket: Socket, url: str, data: Intake) -> None:
    key = new_key()

    def go_on(answer: Answer) -> Intake:
        if answer.status != 101 or not accepts(key, answer.headers.get("sec-websocket-accept", "")):
            raise BusUnavailable(f"{shown(url)} has no WebSocket at this path: {answer.line}")
        socket.use(FrameWriter(socket.transport))
        return Frames(data, socket.on_control)

    await _ask(socket, upgrade_request(url, key), go_on)


async def _ask(socket: Socket, request: bytes, go_on: Callable[[Answer], Intake]) -> None:
    """Send a request; its answer's head decides who takes what comes behind it."""
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(answer: Answer, rest: memoryview) -> None:
        try:
            socket.intake = go_on(answer)
        except BusUnavailable as error:
            if not answered.done():
                answered.set_exception(error)
            return
        # At once: what comes next comes to the new one.
        if rest:
            feed(socket.intake, rest)
        if not answered.done():
            answered.set_result(None)

    socket.intake = AnswerHead(take)
    socket.transport.write(request)
    await socket.unless_lost(answered)


def _connect_request(place: Place, proxy: SplitResult) -> bytes:
    lines = [f"CONNECT {place.authority} HTTP/1.1", f"Host: {place.authority}"]
    if proxy.username is not None:
        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an HTTP answer."""

    status: int
    line: str
    headers: dict[str, str]

    @classmethod
    def read(cls, head: bytes) -> Answer:
        """Raises `ProtocolBroken`."""
        first, *others = head.decode("latin-1").split("\r\n")
        version, _, line = first.partition(" ")
        if not version.startswith("HTTP/1.") or not line[:3].isdigit():
            raise ProtocolBroken(f"not an HTTP answer: {first[:80]!r}")
        pairs = (other.partition(":") for other in others)
        return cls(int(line[:3]), line.strip(), {name.strip().lower(): value.strip() for name, _, value in pairs})


class AnswerHead:
    """An intake for the head of an HTTP answer; `take` gets it, and what came behind it."""

    def __init__(self, take: Callable[[Answer, memoryview], None]) -> None:
        self._take = take
        self._buffer = bytearray(_HEAD_BYTES)
        self._end = 0

    def space(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        return memoryview(self._buffer)[self._end :]

    def filled(self, count: int) -> None:
        """So many bytes were put into `space()`. Raises `ProtocolBroken`."""
        self._end += count
        head_end = self._buffer.find(b"\r\n\r\n", 0, self._end)
        if head_end >= 0:
            rest = memoryview(self._buffer)[head_end + 4 : self._end]
            self._take(Answer.read(bytes(self._buffer[:head_end])), rest)
        elif self._end == _HEAD_BYTES or not self._begins_well():
            begun = bytes(self._buffer[: min(self._end, 40)])
            raise ProtocolBroken(f"no WebSocket and no proxy is there, as it does not speak HTTP: {begun!r}")

    def _begins_well(self) -> bool:
        begun = bytes(self._buffer[: min(self._end, 5)])
        return begun == b"HTTP/"[: len(begun)]
