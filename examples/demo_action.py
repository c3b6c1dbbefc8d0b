"""An action as a workflow service runs it: plain HTTP, no SDK."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
from demo_functions import WrongResult

PROVIDER = "/actions/compute/v3"
_COMPLETE_WITHIN_S = 30.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request of the action's life, for the table: what it was for, the answer and how long it took."""

    what: str
    line: str
    status_code: int
    outcome: str
    took_s: float


class Action:
    """One action of the Compute provider, from its start to its release. Remembers every request."""

    def __init__(self, url: str, token: str) -> None:
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30.0)
        self._request_id = str(uuid.uuid4())
        self._action_id = ""
        self.requests: list[Request] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def introspect(self) -> None:
        """Ask what the provider is and takes."""
        self._send("introspect", "GET", "", 200, lambda answer: str(answer["title"]))

    def run(self, body: dict[str, Any], *, repeated: bool = False) -> None:
        """Start the action; or, the request being repeated, find it started. Raises `WrongResult`."""
        request = {"request_id": self._request_id, "body": body, "label": "Seattle, year by year"}
        what, status = ("run, repeated", 200) if repeated else ("run", 202)
        answer = self._send(what, "POST", "/run", status, _state, json=request)
        if repeated and answer["action_id"] != self._action_id:
            raise WrongResult(f"the repeated request started another action, {answer['action_id']}")
        self._action_id = answer["action_id"]

    def until_complete(self) -> list[Any]:
        """Ask for the status until the action has ended; the results of its tasks. Raises `WrongResult`."""
        end = time.monotonic() + _COMPLETE_WITHIN_S
        while True:
            answer = self._send("status", "GET", f"/{self._action_id}/status", 200, _state)
            if answer["status"] == "SUCCEEDED":
                return list(answer["details"]["result"])
            if answer["status"] != "ACTIVE" or time.monotonic() > end:
                raise WrongResult(f"the action did not succeed: {answer['status']}, {answer['details']}")
            time.sleep(_POLL_S)

    def release(self) -> None:
        """Let the provider forget the action. Raises `WrongResult` when it does not."""
        self._send("release", "POST", f"/{self._action_id}/release", 200, _state)
        self._send("status, afterwards", "GET", f"/{self._action_id}/status", 404, lambda answer: str(answer["code"]))

    def _send(
        self, what: str, method: str, path: str, wanted: int, outcome: Callable[[dict[str, Any]], str], **content: Any
    ) -> Any:
        began = time.monotonic()
        answer = self._http.request(method, PROVIDER + path, **content)
        took_s = time.monotonic() - began
        if answer.status_code != wanted:
            raise WrongResult(f"{method} {PROVIDER}{path} answered {answer.status_code}: {answer.text[:500]}")
        document = answer.json()
        line = f"{method} {path.replace(self._action_id, '{id}') if self._action_id else path}"
        self.requests.append(
            Request(what=what, line=line, status_code=wanted, outcome=outcome(document), took_s=took_s)
        )
        return document


def _state(answer: dict[str, Any]) -> str:
    return str(answer["status"])
