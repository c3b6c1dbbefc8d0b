"""One sink's HTTP client: no redirects, no proxies, no cookies, and connections only to addresses that may be reached.

A name is resolved here, each of its addresses is judged, and the connection is made to the address that was judged:
what a name server says a moment later does not matter. TLS still asks for the name.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final

import httpcore

from headrace.bus.errors import SinkProblem
from headrace.bus.eventing.sinks.addresses import Address, AddressPolicy
from headrace.bus.eventing.sinks.answers import Answer

MOST_EXCERPT: Final = 500
"""Characters of an answer that are kept."""

_MOST_READ: Final = 4096
_KEEP_ALIVE_S: Final = 30.0
_LOOKUPS: Final = ThreadPoolExecutor(8, thread_name_prefix="names of sinks")
"""Threads of their own: a name server that takes its time holds up other lookups for sinks, and nothing else."""


class SinkClient:
    """Sends requests to one sink. An `async with`."""

    def __init__(
        self, url: str, policy: AddressPolicy, *, context: ssl.SSLContext, timeout_s: float, connections: int
    ) -> None:
        """`timeout_s` is for a whole request, `connections` the most at a time."""
        self._url = httpcore.URL(url)
        self._timeout_s = timeout_s
        secure = self._url.scheme == b"https"
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=_KEEP_ALIVE_S,
            network_backend=_JudgingBackend(policy, secure=secure),
        )

    async def __aenter__(self) -> SinkClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.aclose()

    async def send(self, method: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """One request; its answer, whatever its status. Raises `SinkProblem`."""
        sent = {"host": _host_header(self._url), **headers, "content-length": str(len(body))}
        begun = time.monotonic()
        try:
            lines = [(name.encode("ascii"), value.encode("ascii")) for name, value in sent.items()]
            async with (
                asyncio.timeout(self._timeout_s),
                self._pool.stream(method, self._url, headers=lines, content=body) as response,
            ):
                found = {name.decode("latin-1").lower(): _plain(value) for name, value in response.headers}
                return Answer(status=response.status, headers=found, excerpt=await _excerpt(response))
        except TimeoutError:
            took_s = time.monotonic() - begun
            raise SinkProblem(f"no answer within {took_s:.1f} s", kind="SinkTimeout") from None
        except httpcore.ConnectError as error:
            raise _unreachable(error) from None
        except (httpcore.LocalProtocolError, UnicodeError):
            # Without the text, which quotes what may be a secret.
            raise SinkProblem("the event cannot be written as HTTP has it in this mode", kind="SinkUnfit") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            text = str(error) or type(error).__name__
            raise SinkProblem(f"the connection broke: {_clean(text)[:200]}", kind="SinkUnreachable") from None


async def check_address(url: str, policy: AddressPolicy, *, timeout_s: float = 5.0) -> None:
    """Raises `SinkProblem` where the host cannot be found, or nothing may be sent to any of its addresses."""
    parts = httpcore.URL(url)
    try:
        async with asyncio.timeout(timeout_s):
            await _allowed(parts.host.decode(), parts.port or 443, policy, secure=parts.scheme == b"https")
    except TimeoutError:
        raise SinkProblem("the name of the host could not be looked up in time", kind="SinkUnreachable") from None


class _JudgingBackend(httpcore.AsyncNetworkBackend):
    """Connects to judged addresses only."""

    def __init__(self, policy: AddressPolicy, *, secure: bool) -> None:
        self._policy = policy
        self._secure = secure
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        problem: Exception = httpcore.ConnectError("no address")
        for address in await _allowed(host, port, self._policy, secure=self._secure):
            try:
                return await self._inner.connect_tcp(
                    str(address), port, timeout, local_address, socket_options=socket_options
                )
            except httpcore.ConnectError as error:
                problem = error
        raise problem

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _allowed(host: str, port: int, policy: AddressPolicy, *, secure: bool) -> list[Address]:
    """The addresses of a host that may be reached: at least one. Raises `SinkProblem`."""
    try:
        look_up = functools.partial(socket.getaddrinfo, host.strip("[]"), port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, look_up)
    except (socket.gaierror, UnicodeError) as error:
        raise SinkProblem(f"the host {host[:100]!r} is not found: {error}", kind="SinkUnreachable") from None
    addresses = list(dict.fromkeys(ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found))
    problems = [policy.problem(host.strip("[]"), address, secure=secure) for address in addresses]
    allowed = [address for address, problem in zip(addresses, problems, strict=True) if problem is None]
    if not allowed:
        raise SinkProblem(problems[0] or "the host has no address", kind="SinkForbidden")
    return allowed


def _unreachable(error: httpcore.ConnectError) -> SinkProblem:
    text = _clean(str(error) or type(error).__name__)[:200]
    return SinkProblem(f"no connection: {text}", kind="SinkUnreachable")


async def _excerpt(response: httpcore.Response) -> str:
    """The beginning of the body, as text. The rest is not read."""
    read = b""
    async for piece in response.aiter_stream():
        read += piece[: _MOST_READ - len(read)]
        if len(read) >= _MOST_READ:
            break
    return _clean(read.decode("utf-8", "replace"))[:MOST_EXCERPT]


def _clean(text: str) -> str:
    """A stranger's text on one line, without control characters."""
    return "".join(sign if sign.isprintable() else " " for sign in text).strip()


def _plain(value: bytes) -> str:
    return _clean(value.decode("latin-1"))


def _host_header(url: httpcore.URL) -> str:
    host = url.host.decode()
    host = f"[{host}]" if ":" in host else host
    usual = {b"http": 80, b"https": 443}[url.scheme]
    return host if url.port in (None, usual) else f"{host}:{url.port}"
