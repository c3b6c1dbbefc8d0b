"""A client of action providers: run, status, cancel, resume, release.

Every request may be repeated: `run` because of its request id, the others by what they are. So each is tried again
when the connection breaks or the provider says that it is busy, for as long as the caller has patience.
"""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote, urlsplit

from headrace.bus.errors import NetworkUnusable
from headrace.bus.light_httpx import httpx
from headrace.bus.network import DIRECT, Network
from headrace.sdk.flows.errors import ProviderRefused, ProviderUnreachable
from headrace.sdk.http import Retries, headrace_version

STATES: Final = ("ACTIVE", "INACTIVE", "SUCCEEDED", "FAILED")
_LONGEST_RETRY_AFTER_S: Final = 60.0
_BUSY: Final = frozenset({429, 502, 503, 504})
_MOST_BROKEN: Final = 3
"""How often a provider may answer that it is broken (500)."""

Pause = Callable[[float], bool]
"""Waits so many seconds; True when the waiting was ended early, and nothing more is to be tried."""


class Providers:
    """Requests to action providers. Not for several threads at a time; nothing is opened before the first request."""

    def __init__(
        self,
        network: Network = DIRECT,
        *,
        timeout_s: float = 30.0,
        pause: Pause | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._network = network
        self._timeout_s = timeout_s
        self._pause = pause or _slept
        self._note = note
        self._clients: dict[str, httpx.Client] = {}

    def __enter__(self) -> Providers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def run(self, url: str, token: str, request: Mapping[str, Any], *, patience_s: float) -> dict[str, Any]:
        """Start an action, or find the one that this request has started; its status document.

        Raises `ProviderRefused` and `ProviderUnreachable`; after the latter it may have been started.
        """
        document = self._status(self._request("POST", url, "/run", token, request, patience_s))
        if not isinstance(document.get("action_id"), str) or not document["action_id"]:
            raise ProviderRefused(f"{url} started an action without saying its id", status=200, body=document)
        return document

    def status(self, url: str, token: str, action_id: str, *, patience_s: float = 0.0) -> dict[str, Any]:
        """An action as it is now. Raises `ProviderRefused` and `ProviderUnreachable`."""
        return self._status(self._request("GET", url, f"/{_step(action_id)}/status", token, None, patience_s))

    def tell(
        self, url: str, token: str, action_id: str, verb: str, *, patience_s: float, pause: Pause | None = None
    ) -> dict[str, Any]:
        """Have an action cancelled, resumed or released (`verb`). Raises `ProviderRefused`, `ProviderUnreachable`."""
        return self._status(self._request("POST", url, f"/{_step(action_id)}/{verb}", token, None, patience_s, pause))

    def _request(
        self,
        method: str,
        url: str,
        place: str,
        token: str,
        body: Mapping[str, Any] | None,
        patience_s: float,
        pause: Pause | None = None,
    ) -> httpx.Response:
        pause = pause or self._pause
        pauses = Retries(within_s=patience_s, first_pause_s=0.2, longest_pause_s=10.0).pauses()
        broken = 0
        while True:
            try:
                return self._once(method, url, place, token, body)
            except (ProviderUnreachable, ProviderRefused) as error:
                if isinstance(error, ProviderRefused) and not is_passing(error.status):
                    raise
                if isinstance(error, ProviderRefused) and error.status not in _BUSY:
                    # More like a mistake of the provider's than bad weather; and one that forgets request ids may have
                    # started something each time.
                    broken += 1
                    if broken == _MOST_BROKEN:
                        raise
                pause_s = next(pauses, None)
                if pause_s is None:
                    raise
                self._note(f"trying again: {error}")
                if pause(max(pause_s, _wanted_pause_s(error))):
                    raise

    def _once(self, method: str, url: str, place: str, token: str, body: Mapping[str, Any] | None) -> httpx.Response:
        address = url.rstrip("/") + place
        try:
            response = self._client(url).request(
                method,
                address,
                content=None if body is None else json.dumps(body).encode(),
                headers={"Authorization": f"Bearer {token}", **({"Content-Type": "application/json"} if body else {})},
            )
        except httpx.TransportError as error:
            problem = str(error) or type(error).__name__
            raise ProviderUnreachable(f"{method} {address}: {problem}") from error
        except (httpx.HTTPError, httpx.InvalidURL, NetworkUnusable) as error:
            raise ProviderRefused(f"{method} {address}: {error}", status=0, body=str(error)) from error
        if response.is_success:
            return response
        raise ProviderRefused(
            f"{method} {address} was answered with HTTP {response.status_code}: {_words(response)}",
            status=response.status_code,
            body=_said(response),
            retry_after=response.headers.get("Retry-After", ""),
        )

    def _status(self, response: httpx.Response) -> dict[str, Any]:
        """The status document of an answer; lenient in all that a run does not need."""
        document = _said(response)
        if not isinstance(document, dict) or document.get("status") not in STATES:
            raise ProviderRefused(
                f"{response.request.url} answered something that is no action status: is this an action provider?",
                status=response.status_code,
                body=document,
            )
        return document

    def _client(self, url: str) -> httpx.Client:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._clients:
            self._clients[origin] = httpx.Client(
                headers={"User-Agent": f"headrace-flow/{headrace_version()}", "Accept": "application/json"},
                timeout=self._timeout_s,
                **self._network.http_options(origin),
            )
        return self._clients[origin]


def is_passing(status: int) -> bool:
    """Whether an error is one that goes by."""
    return status == 429 or status >= 500


def _wanted_pause_s(error: ProviderUnreachable | ProviderRefused) -> float:
    """How long the provider asks to be left alone, by `Retry-After`: in seconds, or as a date."""
    text = error.retry_after if isinstance(error, ProviderRefused) else ""
    if text.isdigit():
        seconds = float(text)
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER_S)


def _said(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text[:2000]


def _words(response: httpx.Response) -> str:
    """What an error says, in a line."""
    said = _said(response)
    if isinstance(said, dict):
        nested = said.get("error")
        inner = nested if isinstance(nested, dict) else said
        words = inner.get("description") or inner.get("detail") or inner.get("message") or inner
        code = inner.get("code")
        return f"{code}: {words}" if code else str(words)
    return " ".join(str(said).split())[:200] or response.reason_phrase


def _step(action_id: str) -> str:
    return quote(action_id, safe="")


def _slept(seconds: float) -> bool:
    time.sleep(seconds)
    return False
