"""What happens to actions though nobody asks, and what is left of them: ends, deadlines, releases."""

from __future__ import annotations

import datetime
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from gates import WAIT_FOR
from running_pool import RunningPool
from service import RunningService
from waiting import eventually

from headrace.bus.store.actions import ActionRecord, Actions

BASE = "/actions/compute/v3"


def run(http: httpx.Client, endpoint_id: str, function_id: str, **more: Any) -> dict[str, Any]:
    answer = http.post(f"{BASE}/run", json=request_for(endpoint_id, function_id, **more))
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def run_until(
    seconds: float, http: httpx.Client, endpoint_id: str, function_id: str, **more: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A request whose deadline comes so soon, and its action. On a slow machine it may have passed before the request
    came, which is refused: then another one is made."""

    def begun() -> tuple[dict[str, Any], dict[str, Any]] | None:
        request = request_for(endpoint_id, function_id, deadline=in_s(seconds), **more)
        answer = http.post(f"{BASE}/run", json=request)
        return (request, dict(answer.json())) if answer.status_code == 202 else None

    found = eventually(begun, 20, "an action begins before its deadline")
    assert found is not None
    return found


def request_for(endpoint_id: str, function_id: str, **more: Any) -> dict[str, Any]:
    body = {"endpoint_id": endpoint_id, "tasks": [{"function_id": function_id, **more.pop("task", {})}]}
    return {"request_id": uuid.uuid4().hex, "body": {**body, **more.pop("body", {})}, **more}


def stored(service: RunningService, action: dict[str, Any]) -> ActionRecord | None:
    """The action's record, read past the service: looking must not be what ends it."""
    found = service.bus(lambda connection: Actions(connection).by_id(action["action_id"]))
    return None if found is None else found.value


def group_of(action: dict[str, Any]) -> str:
    return uuid.UUID(action["action_id"].removeprefix("tg_")).hex


def in_s(seconds: float) -> str:
    return (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)).isoformat()


def test_an_end_is_written_though_nobody_asks(service: RunningService, pool: RunningPool, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    function = service.add_function(WAIT_FOR, "wait_for", entry_point="wait_for")
    action = run(service.http(), pool.endpoint_id, function, task={"args": [str(gate)], "kwargs": {"value": 3}})
    assert action["status"] == "ACTIVE"

    gate.touch()

    record = eventually(lambda: (found := stored(service, action)) and found.final and found, 10)
    assert record
    assert record.status == "SUCCEEDED"
    assert record.details == service.http().get(f"{BASE}/{action['action_id']}/status").json()["details"]


def test_a_deadline_is_kept_though_nobody_asks(service: RunningService, away: str) -> None:
    _, action = run_until(0.6, service.http(), away, service.add_function())

    record = eventually(lambda: (found := stored(service, action)) and found.final and found, 10)

    assert record
    assert record.details
    assert record.details["code"] == "DeadlineExceeded"
    assert record.deadline
    assert record.ended_at
    assert record.ended_at >= record.deadline
    # What it had queued does not run any more.
    task = action["details"]["tasks"][0]["task_id"]
    assert service.http().get(f"/api/v1/tasks/{task}").json()["state"] == "cancelled"


def test_an_action_that_nobody_asks_for_goes_away_after_its_end(service: RunningService, away: str) -> None:
    _, action = run_until(0.6, service.http(), away, service.add_function(), release_after=1)

    eventually(lambda: stored(service, action) is None, 10)


def test_a_service_that_starts_keeps_the_deadlines_of_the_one_before(service: RunningService, away: str) -> None:
    function = service.add_function()

    def left() -> dict[str, Any] | None:
        """An action that the service has left before its deadline, which it may be too slow for."""
        _, begun = run_until(1.5, service.http(), away, function)
        service.stop_serving()
        found = stored(service, begun)
        assert found
        assert found.deadline
        if found.final:
            service.serve_again()
            return None
        return begun

    action = eventually(left, 20, "an action goes on when its service ends")
    assert action is not None

    service.serve_again()

    assert eventually(lambda: (found := stored(service, action)) and found.final, 10)


def test_a_request_that_is_repeated_after_its_deadline_finds_its_action(service: RunningService, away: str) -> None:
    http, function = service.http(), service.add_function()
    request, action = run_until(0.7, http, away, function)
    eventually(lambda: (found := stored(service, action)) and found.final, 10)

    again = http.post(f"{BASE}/run", json=request)

    assert again.status_code == 200
    assert again.json()["action_id"] == action["action_id"]
    assert again.json()["details"]["code"] == "DeadlineExceeded"
    assert http.post(f"{BASE}/run", json={**request, "request_id": "other"}).status_code == 422


def test_no_action_lives_longer_than_the_service_says(service: RunningService, away: str) -> None:
    action = run(service.http(), away, service.add_function(), deadline="2999-01-01", release_after="P5Y")

    record = stored(service, action)

    assert action["release_after"] == "P90D"
    assert record
    assert record.deadline == pytest.approx(record.started_at + 30 * 86_400)
    assert service.http().get(BASE).json()["maximum_deadline"] == "P30D"


@pytest.mark.parametrize("named", [False, True])
def test_releasing_removes_what_is_stored_of_the_tasks(service: RunningService, pool: RunningPool, named: bool) -> None:
    http = service.http()
    function = service.add_function("def loud(x):\n    print(x)\n    return x\n", "loud", entry_point="loud")
    group = {"task_group_id": str(uuid.uuid4())} if named else {}
    action = run(http, pool.endpoint_id, function, task={"args": [1]}, body=group)
    eventually(lambda: http.get(f"{BASE}/{action['action_id']}/status").json()["status"] == "SUCCEEDED", 10)
    task = http.get(f"{BASE}/{action['action_id']}/status").json()["details"]["results"][0]["task_id"]
    eventually(lambda: "1" in http.get(f"/api/v1/tasks/{task}/logs").text, 10)

    assert http.post(f"{BASE}/{action['action_id']}/release").status_code == 200

    # Of a group that its caller has named others may know: an executor may read it.
    assert http.get(f"/api/v1/tasks/{task}").status_code == (200 if named else 404)
    logs = service.bus(
        lambda connection: connection.api("STREAM.INFO.LOGS", {"subjects_filter": f"log.*.*.{group_of(action)}.>"})
    )
    assert bool(logs["state"].get("subjects")) == named
