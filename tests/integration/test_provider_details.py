"""What bodies ask for and what details show: versions of the body, options, states, and values too large for a flow."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from flow_client import BASE, NOTE, RAISE, SQUARE, Flows, checked, task
from gates import WAIT_FOR
from plain_http import NO_TLS
from running_pool import RunningPool
from service import RunningService, serving
from waiting import eventually

BIG = "def big(n):\n    if n < 0:\n        raise ValueError(f'{n} is negative')\n    return 'x' * n\n"
TWICE = """
def twice(path):
    from pathlib import Path

    if not Path(path).exists():
        Path(path).touch()
        raise ValueError("the first time")
    return "second"
"""


@pytest.fixture
def flows(service: RunningService, pool: RunningPool) -> Flows:
    return Flows(service.http(), pool.endpoint_id)


def run_v2(flows: Flows, body: dict[str, Any], base: str = "/actions/compute") -> dict[str, Any]:
    """The end of an action of the V2 provider."""
    answer = flows.http.post(f"{base}/run", json={"request_id": uuid.uuid4().hex, "body": body})
    here = f"{base}/{checked(answer, 202)['action_id']}/status"
    eventually(lambda: flows.http.get(here).json()["status"] != "ACTIVE", 10)
    return checked(flows.http.get(here))


def test_values_too_large_for_a_flow_are_given_by_reference(service: RunningService, flows: Flows) -> None:
    big = service.add_function(BIG, "big", entry_point="big")

    tasks = [{"function_id": big, "args": [n]} for n in (10, 70_000, 5_000_000)]
    action = flows.ended(checked(flows.run(*tasks), 202))

    kept = timedelta(seconds=service.settings.streams.result_age_s)
    small, *references = action["details"]["result"]
    assert small == "x" * 10
    for output, reference, size in zip(action["details"]["results"][1:], references, (70_000, 5_000_000), strict=True):
        assert output["output"] == reference
        told = reference["result_reference"]
        assert told["href"] == f"{service.url}/api/v1/tasks/{output['task_id']}/result"
        answer = flows.http.get(told["href"])
        assert answer.json() == "x" * size
        assert (len(answer.content), hashlib.sha256(answer.content).hexdigest()) == (told["size"], told["sha256"])
        stored = datetime.fromisoformat(told["expires_at"]) - kept
        assert stored <= datetime.fromisoformat(action["completion_time"])
        assert stored >= datetime.fromisoformat(action["start_time"]) - timedelta(milliseconds=1)  # it is cut to those
    assert flows.status(action) == action
    assert checked(flows.http.post(f"{BASE}/{action['action_id']}/cancel"))["status"] == "SUCCEEDED"
    # The workflow may release the action before the step that reads the value.
    checked(flows.http.post(f"{BASE}/{action['action_id']}/release"))
    assert flows.http.get(references[0]["result_reference"]["href"]).is_success


def test_values_that_are_too_large_only_together_leave_a_flow_its_room(service: RunningService, flows: Flows) -> None:
    big = service.add_function(BIG, "big", entry_point="big")

    action = flows.ended(checked(flows.run(*({"function_id": big, "args": [1000 + n]} for n in range(100))), 202))

    shown = [value for value in action["details"]["result"] if isinstance(value, str)]
    assert 0 < sum(map(len, shown)) <= 49_152 < sum(map(len, shown)) + 2000
    for n, value in enumerate(action["details"]["result"]):
        told = value if isinstance(value, str) else flows.http.get(value["result_reference"]["href"]).json()
        assert len(told) == 1000 + n
    assert len(json.dumps(action)) < 200_000


def test_of_very_many_values_there_is_one_reference_to_all(service: RunningService, flows: Flows) -> None:
    square = service.add_function(SQUARE, "square", entry_point="square")

    action = flows.ended(checked(flows.run(*({"function_id": square, "args": [n]} for n in range(5000))), 202), 30)

    assert action["display_status"] == "5000 tasks done"
    shown = action["details"]["results"]
    assert [each["output"] for each in shown] == action["details"]["result"] == [n * n for n in range(len(shown))]
    reference = action["details"]["results_reference"]
    whole = flows.http.get(reference["href"])
    assert [each["output"] for each in whole.json()] == [n * n for n in range(5000)]
    assert whole.json()[: len(shown)] == shown
    assert len(whole.content) == reference["size"]
    assert len(json.dumps(action)) < 200_000


def test_what_counts_as_too_large_is_a_setting(service: RunningService, flows: Flows) -> None:
    big = task(service, BIG, "big", 1000)
    settings = dataclasses.replace(service.settings, action_value_bytes=1000, public_url="https://lab.example.org/")
    headers = {"Authorization": f"Bearer {service.token}"}
    with (
        serving(service.loop, settings) as url,
        httpx.Client(base_url=url, headers=headers, trust_env=False, verify=NO_TLS, timeout=20) as http,
    ):
        action = Flows(http, flows.endpoint_id).ended(checked(Flows(http, flows.endpoint_id).run(big), 202))

    assert action["details"]["result"][0]["result_reference"]["href"].startswith(
        "https://lab.example.org/api/v1/tasks/"
    )


def test_a_failure_with_large_values_keeps_errors_and_values(service: RunningService, flows: Flows) -> None:
    big = service.add_function(BIG, "big", entry_point="big")

    tasks = [{"function_id": big, "args": [n]} for n in (4_000_000, 4_000_000, -1)]
    action = flows.ended(checked(flows.run(*tasks), 202))

    assert action["details"]["description"] == "1 of 3 tasks failed; the first: ValueError: -1 is negative"
    assert action["details"]["errors"][0]["index"] == 2
    assert action["details"]["result"][0]["result_reference"]["size"] == 4_000_002
    assert action["details"]["result"][2] is None
    assert flows.status(action) == action


def test_each_task_has_its_state_and_times_during_the_action_and_after(
    service: RunningService, flows: Flows, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    fails, waits = task(service, RAISE, "crash", -1), task(service, WAIT_FOR, "wait_for", str(gate), value=1)
    action = checked(flows.run(fails, waits), 202)
    eventually(lambda: flows.status(action)["display_status"] == "1 of 2 tasks done (1 failed), 1 running", 10)

    failed, running = flows.status(action)["details"]["tasks"]
    gate.touch()
    ended = flows.ended(action)["details"]

    assert [failed["state"], running["state"]] == ["failed", "running"]
    assert failed["started_at"] <= failed["ended_at"]
    assert "ended_at" not in running
    assert [each["state"] for each in ended["tasks"]] == ["failed", "succeeded"]
    assert ended["tasks"][0] == failed
    assert ended["tasks"][1]["started_at"] <= ended["tasks"][1]["ended_at"]
    assert ended["states"] == {"failed": 1, "succeeded": 1}


@pytest.mark.parametrize("base", ["/actions/compute", "/actions/compute/fxap"])
def test_flows_of_the_second_version_run_as_they_are(service: RunningService, flows: Flows, base: str) -> None:
    square = service.add_function(SQUARE, "square", entry_point="square")
    call = {"endpoint": flows.endpoint_id, "function": square}

    assert run_v2(flows, {**call, "args": "[3]"}, base)["details"]["result"] == [9]
    both = run_v2(flows, {**call, "kwargs": {"x": 2}, "tasks": [{**call, "payload": "{'x': 4}"}]}, base)
    assert [each["output"] for each in both["details"]["results"]] == [4, 16]


def test_one_action_runs_on_several_endpoints_and_keeps_the_order(
    service: RunningService, flows: Flows, late: RunningPool
) -> None:
    square = service.add_function(SQUARE, "square", entry_point="square")
    places = [flows.endpoint_id, late.endpoint_id]
    late.start()

    tasks = [{"endpoint": places[n % 2], "function": square, "args": n} for n in range(5)]
    action = run_v2(flows, {"tasks": tasks})

    assert action["details"]["result"] == [0, 1, 4, 9, 16]
    for each, endpoint in zip(action["details"]["results"], places * 2, strict=False):
        assert flows.http.get(f"/api/v1/tasks/{each['task_id']}").json()["endpoint_id"] == endpoint


def test_cancelling_reaches_every_endpoint_of_an_action(
    service: RunningService, flows: Flows, late: RunningPool, tmp_path: Path
) -> None:
    note = service.add_function(NOTE, "note", entry_point="note")
    here, away = ({"endpoint": each, "function": note} for each in (flows.endpoint_id, late.endpoint_id))
    path = tmp_path / "notes"
    tasks = [{**here, "args": [str(path), "x"]}, {**away, "args": [str(path), "y"]}]
    request = {"request_id": uuid.uuid4().hex, "body": {"tasks": tasks}}
    action = checked(flows.http.post("/actions/compute/run", json=request), 202)
    status = f"/actions/compute/{action['action_id']}"
    said = "1 of 2 tasks done, endpoint offline"
    eventually(lambda: flows.http.get(f"{status}/status").json()["display_status"] == said, 10)
    assert flows.http.get(f"{status}/status").json()["details"]["endpoints_offline"] == [late.endpoint_id]

    again = checked(flows.http.post("/actions/compute/run", json=request))
    cancelled = checked(flows.http.post(f"{status}/cancel"))
    late.start()
    later = Flows(service.http(), late.endpoint_id)
    later.ended(checked(later.run(task(service, NOTE, "note", str(path), ".")), 202))

    assert again["action_id"] == action["action_id"]
    assert cancelled["details"]["result"] == ["x", None]
    assert path.read_text() == "x."


def test_functions_that_cannot_be_used_are_named_with_their_field(service: RunningService, flows: Flows) -> None:
    square = service.add_function(SQUARE, "square", entry_point="square")
    unknown = str(uuid.uuid4())
    tasks = [{"endpoint": flows.endpoint_id, "function": square}, {"endpoint": unknown, "function": square}]

    answer = flows.http.post("/actions/compute/run", json={"request_id": "unknown", "body": {"tasks": tasks}})
    third = flows.run({"function_id": square}, {"function_id": unknown})

    assert answer.status_code == third.status_code == 400
    assert f"Field '$.tasks[1].endpoint': there is no endpoint {unknown}" in answer.json()["description"]
    assert f"Field '$.tasks[1].function_id': there is no function {unknown}" in third.json()["description"]


def test_tasks_run_as_the_options_of_the_body_say(service: RunningService, flows: Flows, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    again = service.add_function(TWICE, "twice", entry_point="twice")
    waits = service.add_function(WAIT_FOR, "wait_for", entry_point="wait_for")
    tasks = [{"function_id": again, "args": [str(path)]}]
    retried = {"endpoint_id": flows.endpoint_id, "tasks": tasks, "options": {"max_retries": 1}}
    limited = {"endpoint": flows.endpoint_id, "function": waits, "args": "/never", "options": {"task_timeout_s": 0.2}}
    later = "2999-01-01T00:00:00Z"

    answer = flows.http.post(f"{BASE}/run", json={"request_id": uuid.uuid4().hex, "body": retried, "deadline": later})

    assert flows.ended(checked(answer, 202))["details"]["result"] == ["second"]
    ended = run_v2(flows, limited)["details"]
    assert (ended["code"], ended["states"]) == ("TaskExpired", {"expired": 1})
    retried["options"] = {"max_retries": -1}
    refused = flows.http.post(f"{BASE}/run", json={"request_id": uuid.uuid4().hex, "body": retried})
    assert "Field '$.options.max_retries' (category: 'minimum')" in refused.json()["description"]


@pytest.mark.parametrize("path", [BASE, "/actions/compute", "/actions/functions/{}"])
def test_the_schema_of_a_body_can_be_used_without_any_other_file(service: RunningService, path: str) -> None:
    path = path.format(service.add_function(public=True))
    text = json.dumps(service.http("").get(path).json()["input_schema"])

    assert "max_retries" in text
    assert all(target.startswith("#/$defs/") for target in re.findall(r'"\$ref": "([^"]*)"', text))
