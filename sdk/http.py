"""One connection pool to the service: requests and retries."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.bus.errors import NetworkUnusable
from headrace.bus.light_httpx import httpx
from headrace.bus.network import Network
from headrace.bus.tasks.bundles import WIRE_VERSION
from headrace.sdk.answers import document_in, refusal, unreachable
from headrace.sdk.errors import (
    ClientError,
    NotConfigured,
    ProtocolMismatch,
    ServiceUnavailable,
    ServiceUnreachable,
)
from headrace.sdk.forks import tell_after_fork
from headrace.sdk.profile import Profile
from headrace.sdk.token_source import AskedToken, TokenSource

logger = logging.getLogger(__name__)

PROTOCOL: Final = WIRE_VERSION
"""The version of the protocol between SDK and service that this release speaks."""

_SILENCE_S: Final = 60.0
"""How long a transfer may stand still."""
_RETRIED_FOR_S: Final = 4.0
_RETRIED_STATUSES: Final = frozenset({502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How long, and in which steps, a request that met a broken connection or a busy service is tried again."""

    within_s: float
    first_pause_s: float = 0.1
    longest_pause_s: float = 1.0

    def pauses(self) -> Iterator[float]:
        """The pauses before each new attempt; they end when `within_s` is over."""
        pause_s, until = self.first_pause_s, time.monotonic() + self.within_s
        while time.monotonic() + pause_s < until:
            yield pause_s
            pause_s = min(pause_s * 2, self.longest_pause_s)


class Http:
    """Requests to the service that a profile names. Safe from any thread; no I/O before the first request.

    `find_profile` is called at the first request and may raise `NotConfigured`; `token` goes before its token.
    """

    def __init__(
        self, find_profile: Callable[[], Profile], *, timeout_s: float = 30.0, token: TokenSource | None = None
    ) -> None:
        self._find_profile = find_profile
        self._token = token
        self._timeout_s = timeout_s
        self._retries = Retries(within_s=min(_RETRIED_FOR_S, timeout_s))
        self._lock = threading.Lock()
        self._profile: Profile | None = None
        self._client: httpx.Client | None = None
        self._process_id = 0
        self._closed = False
        tell_after_fork(self)

    def after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The service's URL."""
        self._open()
        assert self._profile is not None  # noqa: S101 - `_open` has set it, or raised
        return self._profile.url

    @property
    def network(self) -> Network:
        """How this machine gets to the service and the bus."""
        self._open()
        assert self._profile is not None  # noqa: S101 - `_open` has set it, or raised
        return self._profile.network

    def close(self) -> None:
        """Close the connections. Closing twice is fine."""
        with self._lock:
            client, self._client, self._closed = self._client, None, True
        if client is not None:
            client.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, str | int | bool | None] | None = None,
        repeatable: bool | None = None,
        content_type: str = "application/json",
        wait_s: float = 0.0,
    ) -> Any:
        """The answer's JSON, or None when it has no body. `path` is below /api/v1, unless it starts with a slash.

        A request that never left is tried again for a few seconds; one that is `repeatable` (by default every GET) also
        when the connection broke or the service said that it is busy. `wait_s` is how long the service may take
        on purpose. Raises `ClientError`.
        """
        again = method == "GET" if repeatable is None else repeatable
        request = self._open().build_request(
            method,
            path if path.startswith("/") else f"/api/v1/{path}",
            json=body,
            params={name: value for name, value in (query or {}).items() if value is not None},
            headers={"Content-Type": content_type} if body is not None else None,
            timeout=self._timeout_s + wait_s,
        )
        response = self._repeated(request, again)
        return document_in(response) if response.content else None

    def document(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, str | int | bool | None] | None = None,
        repeatable: bool | None = None,
    ) -> dict[str, Any]:
        """The same, of what is answered with an object."""
        answer: dict[str, Any] = self.request(method, path, body=body, query=query, repeatable=repeatable)
        return answer

    def linked_pages(self, path: str, *, query: Mapping[str, str | int]) -> Iterator[list[Any]]:
        """Arrays that follow each other by the header `Link`, each asked for when the one before is used up.

        `path` starts with a slash. Raises `ClientError`.
        """
        params: dict[str, str | int] | None = dict(query)
        while path:
            request = self._open().build_request("GET", path, params=params, timeout=self._timeout_s)
            response = self._repeated(request, True)
            yield document_in(response)
            path, params = response.links.get("next", {}).get("url", ""), None

    def _repeated(self, request: httpx.Request, again: bool) -> httpx.Response:
        pauses = self._retries.pauses()
        while True:
            try:
                return self._answer(request)
            except (ServiceUnreachable, ServiceUnavailable) as error:
                pause_s = next(pauses, None) if _worth_repeating(error, again) else None
                if pause_s is None:
                    raise
            time.sleep(pause_s)

    def send_stream(self, path: str, pieces: Iterable[bytes], *, size: int) -> None:
        """PUT a body of `size` bytes, piece by piece, once. Raises `ClientError`."""
        request = self._open().build_request(
            "PUT",
            f"/api/v1/{path}",
            content=pieces,
            headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"},
            timeout=_SILENCE_S,
        )
        self._answer(request)

    def receive_stream(self, path: str, write: Callable[[bytes], object], *, start: int = 0) -> None:
        """GET a body from byte `start` on, piece by piece, once. Raises `ClientError` and what `write` raises."""
        request = self._open().build_request(
            "GET",
            path if path.startswith("/") else f"/api/v1/{path}",
            headers={"Range": f"bytes={start}-"} if start else None,
            timeout=_SILENCE_S,
        )
        try:
            response = self._open().send(request, stream=True)
            with contextlib.closing(response):
                if not response.is_success:
                    response.read()
                    raise refusal(response, self.url)
                for piece in response.iter_bytes():
                    write(piece)
        except httpx.TransportError as error:
            raise unreachable(error, request, self.url) from error

    @contextlib.contextmanager
    def lines(
        self, path: str, *, query: Mapping[str, str | int | bool | None], last_id: str, silence_s: float
    ) -> Iterator[Iterator[str]]:
        """The lines of an answer of events that goes on; `last_id` is that of the last event that is known.

        The connection counts as broken when nothing comes for `silence_s`. Raises `ClientError`, also while the lines
        are read.
        """
        client = self._open()
        request = client.build_request(
            "GET",
            f"/api/v1/{path}",
            params={name: value for name, value in query.items() if value is not None},
            headers={"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})},
            timeout=httpx.Timeout(self._timeout_s, read=silence_s),
        )
        try:
            response = client.send(request, stream=True)
        except httpx.TransportError as error:
            raise unreachable(error, request, self.url) from error
        try:
            if not response.is_success:
                response.read()
                raise refusal(response, self.url)
            yield self._lines(response)
        finally:
            response.close()

    def _lines(self, response: httpx.Response) -> Iterator[str]:
        try:
            yield from response.iter_lines()
        except httpx.TransportError as error:
            raise unreachable(error, response.request, self.url) from error

    def _answer(self, request: httpx.Request) -> httpx.Response:
        try:
            response = self._open().send(request)
        except httpx.TransportError as error:
            raise unreachable(error, request, self.url) from error
        except httpx.HTTPError as error:
            raise ClientError(f"{request.method} {request.url}: {error}") from error
        if response.is_success:
            return response
        raise refusal(response, self.url)

    def _open(self) -> httpx.Client:
        with self._lock:
            if self._closed:
                raise ClientError("this client is closed")
            if self._client is None or self._process_id != os.getpid():
                # A forked child must not speak on its parent's connections.
                self._profile = self._find_profile()
                self._client = _new_client(self._profile, self._timeout_s, self._token)
                self._process_id = os.getpid()
            return self._client


@functools.cache
def headrace_version() -> str:
    """The installed release of Headrace."""
    from importlib.metadata import version  # takes a while, and is not needed before the first request

    return version("headrace")


def check_protocol(answer: Mapping[str, Any], url: str) -> None:
    """Raises `ProtocolMismatch` unless the service speaks this SDK's protocol; names both versions and the cure."""
    theirs = answer.get("protocol", PROTOCOL)
    if theirs == PROTOCOL:
        return
    mine, service = headrace_version(), answer.get("service_version") or answer.get("version") or "unknown"
    relation = "newer" if theirs < PROTOCOL else "older"
    raise ProtocolMismatch(
        f"this SDK (headrace {mine}, protocol {PROTOCOL}) is {relation} than the service at {url} "
        f"(headrace {service}, protocol {theirs}); run `pip install headrace=={service}` here, or upgrade the service"
    )


def _new_client(profile: Profile, timeout_s: float, token: TokenSource | None) -> httpx.Client:
    try:
        options = profile.network.http_options(profile.url)
    except NetworkUnusable as error:
        raise NotConfigured(str(error)) from error
    return httpx.Client(
        base_url=profile.url,
        headers={
            **({} if token else {"Authorization": f"Bearer {profile.token}"}),
            "User-Agent": f"headrace-sdk/{headrace_version()}",
        },
        auth=None if token is None else AskedToken(token),
        timeout=timeout_s,
        **options,
    )


def _worth_repeating(error: ServiceUnreachable | ServiceUnavailable, repeatable: bool) -> bool:
    if isinstance(error, ServiceUnavailable):
        return repeatable and error.status in _RETRIED_STATUSES
    # Whoever was given all the time that there was is not asked again.
    return not error.was_sent or (repeatable and not error.timed_out)
