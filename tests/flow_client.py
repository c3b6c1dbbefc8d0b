"""A client of the Compute provider as a workflow service is one, and functions to run.

flows = Flows(service.http(), pool.endpoint_id)
action = checked(flows.run(task(service, SQUARE, "square", 3)), 202)
flows.ended(action)["details"]["result"]
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import httpx
from service import RunningService
from waiting import eventually

from headrace.schemas import validate

BASE = "/actions/compute/v3"

SQUARE = "def square(x):\n    return x * x\n"
RAISE = "def crash(x):\n    if x < 0:\n        raise ValueError(f'{x} is negative')\n    return x\n"
NOTE = "def note(path, text):\n    with open(path, 'a') as file:\n        file.write(text)\n    return text\n"


class Flows:
    """A client of the provider."""

    def __init__(self, http: httpx.Client, endpoint_id: str) -> None:
        self.http = http
        self.endpoint_id = endpoint_id

    def run(self, *tasks: dict[str, Any], request_id: str | None = None, **more: Any) -> httpx.Response:
        body = {"endpoint_id": self.endpoint_id, "tasks": list(tasks)}
        request = {"request_id": request_id or uuid.uuid4().hex, "body": body, **more}
        return self.http.post(f"{BASE}/run", json=request)

    def status(self, action: dict[str, Any]) -> dict[str, Any]:
        return checked(self.http.get(f"{BASE}/{action['action_id']}/status"))

    def ended(self, action: dict[str, Any], within_s: float = 10.0) -> dict[str, Any]:
        return when_ended(lambda: self.status(action), within_s)


def when_ended(look: Callable[[], dict[str, Any]], within_s: float = 10.0) -> dict[str, Any]:
    """The status of an action, once it is not active any more."""

    def end() -> dict[str, Any] | None:
        status = look()
        return None if status["status"] == "ACTIVE" else status

    found = eventually(end, within_s, "the action ended")
    assert found is not None
    return found


def at_once(run: Callable[[], httpx.Response]) -> dict[str, Any]:
    """What a run is answered with when it is over by then; on a busy machine it may be the answer to a later one."""

    def finished() -> dict[str, Any] | None:
        status = checked(run(), 202)
        return None if status["status"] == "ACTIVE" else status

    found = eventually(finished, 10, "a run is answered with its end")
    assert found is not None
    return found


def checked(response: httpx.Response, *statuses: int) -> dict[str, Any]:
    """The status document of an answer; it satisfies the published description."""
    assert response.status_code in (statuses or (200,)), response.text
    document: dict[str, Any] = response.json()
    validate("action-status", document)
    return document


def task(service: RunningService, source: str, name: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """One task of the body: a call of a new function."""
    function_id = service.add_function(source, name, entry_point=name)
    return {"function_id": function_id, "args": list(args), "kwargs": kwargs}
