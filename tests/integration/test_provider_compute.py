"""Actions that run: with a real bus, a real service and a real pool."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from flow_client import BASE, NOTE, SQUARE, Flows, checked, task
from gates import WAIT_FOR
from headrace_up import is_alive
from running_pool import RunningPool, running_pool
from service import RunningService, running_service, serving
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
SPAWN = """
def spawn(path):
    import subprocess

    with subprocess.Popen(["sleep", "600"]) as child:
        with open(path, "a") as file:
            file.write(f"{child.pid}\\n")
"""
RAISE = "def crash(x):\n    if x < 0:\n        raise ValueError(f'{x} is negative')\n    return x\n"


@pytest.fixture(scope="module")
def pool(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    with running_pool(service, tmp_path_factory.mktemp("pool"), name="busy") as running:
        # The first task pays for the start of a worker; the tests below are about quick ends.
        flows = Flows(service.http(), running.endpoint_id)
        warm = service.add_function(SQUARE, "square", entry_point="square")
        flows.ended(checked(flows.run(*({"function_id": warm, "args": [n]} for n in range(4))), 202))
        yield running


@pytest.fixture
def flows(service: RunningService, pool: RunningPool) -> Flows:
    return Flows(service.http(), pool.endpoint_id)


@pytest.fixture
def sleeping_pool(service: RunningService, tmp_path: Path) -> Iterator[RunningPool]:
    with running_pool(service, tmp_path / "sleeping", started=False, name=f"sleeping {uuid.uuid4().hex}") as running:
        yield running


def run_v2(flows: Flows, body: dict[str, Any], base: str = "/actions/compute") -> dict[str, Any]:
    """The end of an action of the V2 provider."""
    answer = flows.http.post(f"{base}/run", json={"request_id": uuid.uuid4().hex, "body": body})
    here = f"{base}/{checked(answer, 202)['action_id']}/status"
    eventually(lambda: flows.http.get(here).json()["status"] != "ACTIVE", 10)
    return checked(flows.http.get(here))


def test_a_quick_action_is_answered_as_succeeded_at_once(service: RunningService, flows: Flows) -> None:
    square = service.add_function(SQUARE, "square", entry_point="square")

    action = checked(flows.run({"function_id": square, "args": [3]}, {"function_id": square, "kwargs": {"x": 4}}), 202)

    assert action["status"] == "SUCCEEDED"
    assert action["details"]["result"] == [9, 16]
    assert [each["output"] for each in action["details"]["results"]] == [9, 16]
    assert len({each["task_id"] for each in action["details"]["results"]}) == 2
    assert action["display_status"] == "2 tasks done"
    assert action["start_time"] <= action["completion_time"]


def test_none_is_a_result(service: RunningService, flows: Flows) -> None:
    action = checked(flows.run(task(service, "def nothing():\n    pass\n", "nothing")), 202)

    assert action["status"] == "SUCCEEDED"
    assert action["details"]["result"] == [None]


def test_the_end_never_changes(service: RunningService, flows: Flows) -> None:
    action = checked(flows.run(task(service, SQUARE, "square", 5)), 202)
    here = f"{BASE}/{action['action_id']}"

    assert flows.status(action) == action
    assert checked(flows.http.post(f"{here}/cancel")) == action
    assert checked(flows.http.post(f"{here}/release")) == action


def test_a_slow_action_is_active_and_says_how_far_it_is(service: RunningService, flows: Flows, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    slow = task(service, WAIT_FOR, "wait_for", str(gate), value=1)

    action = checked(flows.run(task(service, SQUARE, "square", 2), slow), 202)
    eventually(lambda: flows.status(action)["display_status"] == "1 of 2 tasks done, 1 running", 10)
    progress = flows.status(action)
    assert progress["status"] == "ACTIVE"
    assert [each["state"] for each in progress["details"]["tasks"]] == ["succeeded", "running"]
    gate.touch()

    assert flows.ended(action)["details"]["result"] == [4, 1]


def test_a_failed_task_fails_the_action_and_the_other_results_are_there(service: RunningService, flows: Flows) -> None:
    crash = service.add_function(RAISE, "crash", entry_point="crash")

    action = flows.ended(checked(flows.run(*({"function_id": crash, "args": [x]} for x in (1, -2, 3, -4))), 202))

    details = action["details"]
    assert action["status"] == "FAILED"
    assert action["display_status"] == "2 of 4 tasks failed"
    assert details["code"] == "TaskFailed"
    assert details["description"] == "2 of 4 tasks failed; the first: ValueError: -2 is negative"
    assert [(each["index"], each["type"], each["message"]) for each in details["errors"]] == [
        (1, "ValueError", "-2 is negative"),
        (3, "ValueError", "-4 is negative"),
    ]
    assert "in crash" in details["errors"][0]["traceback"]
    assert details["result"] == [1, None, 3, None]


def test_a_result_that_json_cannot_carry_fails_with_what_to_do(service: RunningService, flows: Flows) -> None:
    action = flows.ended(checked(flows.run(task(service, "def raw():\n    return b'x'\n", "raw")), 202))

    assert action["details"]["code"] == "ResultNotSerialisable"
    assert "base64" in action["details"]["description"]


def test_cancelling_stops_what_runs_with_its_processes_and_what_waits(
    service: RunningService, flows: Flows, tmp_path: Path
) -> None:
    path, pids = tmp_path / "started", tmp_path / "pids"
    spawning = task(service, SPAWN, "spawn", str(pids))
    action = checked(flows.run(task(service, NOTE, "note", str(path), "x"), *[spawning] * 6), 202)
    eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2, 10, "both workers run what they started")
    eventually(lambda: flows.status(action)["display_status"] == "1 of 7 tasks done, 2 running", 10)

    cancelled = checked(flows.http.post(f"{BASE}/{action['action_id']}/cancel"))

    assert cancelled["status"] == "FAILED"
    assert cancelled["details"]["code"] == "Cancelled"
    assert cancelled["details"]["result"] == ["x", *[None] * 6]
    assert cancelled["details"]["states"] == {"succeeded": 1, "cancelled": 6}
    assert cancelled["details"]["errors"] == []
    spawned = [int(pid) for pid in pids.read_text().split()]
    eventually(lambda: not any(map(is_alive, spawned)), 10, "what the tasks had started is gone")
    # The workers are free again.
    assert flows.ended(checked(flows.run(task(service, SQUARE, "square", 7)), 202))["details"]["result"] == [49]


def test_an_action_whose_tasks_are_cancelled_one_by_one_is_cancelled(
    service: RunningService, flows: Flows, tmp_path: Path
) -> None:
    waits = task(service, WAIT_FOR, "wait_for", str(tmp_path / "never"))
    action = checked(flows.run(task(service, SQUARE, "square", 2), waits, waits), 202)
    eventually(lambda: flows.status(action)["display_status"] == "1 of 3 tasks done, 2 running", 10)

    group = flows.status(action)["details"]["task_group_id"]
    assert flows.http.post(f"/api/v1/task-groups/{group}/cancel", json={"force": True}).is_success

    ended = flows.ended(action)
    assert ended["details"]["code"] == ended["display_status"] == "Cancelled"
    assert ended["details"]["description"] == "2 of 3 tasks were cancelled"
    assert ended["details"]["result"] == [4, None, None]


def test_an_action_on_an_endpoint_that_was_away_runs_when_it_is_back(
    service: RunningService, sleeping_pool: RunningPool
) -> None:
    flows = Flows(service.http(), sleeping_pool.endpoint_id)
    action = checked(flows.run(task(service, SQUARE, "square", 8)), 202)
    assert action["status"] == "ACTIVE"

    sleeping_pool.start()

    assert flows.ended(action)["details"]["result"] == [64]


def test_an_action_cancelled_while_the_endpoint_is_away_never_runs(
    service: RunningService, sleeping_pool: RunningPool, tmp_path: Path
) -> None:
    path = tmp_path / "notes"
    flows = Flows(service.http(), sleeping_pool.endpoint_id)
    action = checked(flows.run(task(service, NOTE, "note", str(path), "x")), 202)
    checked(flows.http.post(f"{BASE}/{action['action_id']}/cancel"))

    sleeping_pool.start()
    flows.ended(checked(flows.run(task(service, NOTE, "note", str(path), ".")), 202))

    assert path.read_text() == "."
    assert flows.status(action)["details"]["code"] == "Cancelled"


def test_an_action_of_many_tasks_keeps_their_order(service: RunningService, flows: Flows) -> None:
    square = service.add_function(SQUARE, "square", entry_point="square")

    action = flows.ended(checked(flows.run(*({"function_id": square, "args": [n]} for n in range(300))), 202))

    assert action["details"]["result"] == [n * n for n in range(300)]


def test_values_too_large_for_a_flow_are_given_by_reference(service: RunningService, flows: Flows) -> None:
    big = service.add_function(BIG, "big", entry_point="big")

    tasks = [{"function_id": big, "args": [n]} for n in (10, 70_000, 5_000_000)]
    action = flows.ended(checked(flows.run(*tasks), 202))

    small, *references = action["details"]["result"]
    assert small == "x" * 10
    for output, reference, size in zip(action["details"]["results"][1:], references, (70_000, 5_000_000), strict=True):
        assert output["output"] == reference
        told = reference["result_reference"]
        assert told["href"] == f"{service.url}/api/v1/tasks/{output['task_id']}/result"
        answer = flows.http.get(told["href"])
        assert answer.json() == "x" * size
        assert (len(answer.content), hashlib.sha256(answer.content).hexdigest()) == (told["size"], told["sha256"])
        kept = datetime.fromisoformat(told["expires_at"]) - datetime.fromisoformat(action["completion_time"])
        assert round(kept.total_seconds()) == service.settings.streams.result_age_s
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
    with serving(service.loop, settings) as url, httpx.Client(base_url=url, headers=headers, trust_env=False) as http:
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


def test_while_the_bus_is_away_the_answer_is_to_try_again(tmp_path: Path) -> None:
    with running_service(tmp_path / "service", bus_wait_s=0.1, request_timeout_s=1.0) as service:
        flows = Flows(service.http(), service.add_endpoint("away")[0])
        nothing = task(service, "def nothing():\n    pass\n", "nothing")
        action = checked(flows.run(nothing, request_id="before"), 202)

        service.nats.kill()
        service.loop.run(service.nats.wait())
        away = flows.run(nothing, request_id="during")
        assert away.status_code == 503, away.text
        assert away.json()["code"] == "ActionProviderError"
        assert "retry-after" in away.headers
        assert flows.http.get(BASE).status_code == 200

        service.loop.run(service.nats.start())
        eventually(lambda: flows.run(nothing, request_id="during").status_code in (200, 202), 10)
        assert flows.status(action)["status"] == "ACTIVE"
        assert checked(flows.run(nothing, request_id="before"))["action_id"] == action["action_id"]


def test_the_log_names_every_task(service: RunningService, flows: Flows) -> None:
    crash = service.add_function(RAISE, "crash", entry_point="crash")
    action = flows.ended(checked(flows.run(*({"function_id": crash, "args": [x]} for x in (1, -1))), 202))

    entries = flows.http.get(f"{BASE}/{action['action_id']}/log").json()["entries"]

    assert [entries[0]["code"], entries[-1]["code"]] == ["ActionStarted", "ActionFailed"]
    tasks = [each["task_id"] for each in action["details"]["results"]]
    for task_id, end in zip(tasks, ("TaskSucceeded", "TaskFailed"), strict=True):
        steps = [entry for entry in entries[1:-1] if entry["details"]["task_id"] == task_id]
        assert [entry["code"] for entry in steps] == ["TaskSubmitted", "TaskTaken", "TaskStarted", end]
    assert [entry["time"] for entry in entries[1:-1]] == sorted(entry["time"] for entry in entries[1:-1])


def test_a_quick_run_comes_back_finished_where_the_service_hardly_waits(service: RunningService, flows: Flows) -> None:
    square = task(service, SQUARE, "square", 9)
    headers = {"Authorization": f"Bearer {service.token}"}
    with (
        serving(service.loop, dataclasses.replace(service.settings, run_wait_s=0.2)) as url,
        httpx.Client(base_url=url, headers=headers, trust_env=False) as http,
    ):
        impatient = Flows(http, flows.endpoint_id)
        states = [checked(impatient.run(square), 202)["status"] for _ in range(20)]

    # About 6 ms each on a quiet machine: if many are too late, something waits for a timer.
    assert states.count("SUCCEEDED") > 10


@pytest.mark.parametrize("base", ["/actions/compute", "/actions/compute/fxap"])
def test_flows_of_the_second_version_run_as_they_are(service: RunningService, flows: Flows, base: str) -> None:
    square = service.add_function(SQUARE, "square", entry_point="square")
    call = {"endpoint": flows.endpoint_id, "function": square}

    assert run_v2(flows, {**call, "args": "[3]"}, base)["details"]["result"] == [9]
    both = run_v2(flows, {**call, "kwargs": {"x": 2}, "tasks": [{**call, "payload": "{'x': 4}"}]}, base)
    assert [each["output"] for each in both["details"]["results"]] == [4, 16]


def test_one_action_runs_on_several_endpoints_and_keeps_the_order(
    service: RunningService, flows: Flows, sleeping_pool: RunningPool
) -> None:
    square = service.add_function(SQUARE, "square", entry_point="square")
    places = [flows.endpoint_id, sleeping_pool.endpoint_id]
    sleeping_pool.start()

    tasks = [{"endpoint": places[n % 2], "function": square, "args": n} for n in range(5)]
    action = run_v2(flows, {"tasks": tasks})

    assert action["details"]["result"] == [0, 1, 4, 9, 16]
    for each, endpoint in zip(action["details"]["results"], places * 2, strict=False):
        assert flows.http.get(f"/api/v1/tasks/{each['task_id']}").json()["endpoint_id"] == endpoint


def test_cancelling_reaches_every_endpoint_of_an_action(
    service: RunningService, flows: Flows, sleeping_pool: RunningPool, tmp_path: Path
) -> None:
    note = service.add_function(NOTE, "note", entry_point="note")
    here, away = ({"endpoint": each, "function": note} for each in (flows.endpoint_id, sleeping_pool.endpoint_id))
    path = tmp_path / "notes"
    tasks = [{**here, "args": [str(path), "x"]}, {**away, "args": [str(path), "y"]}]
    request = {"request_id": uuid.uuid4().hex, "body": {"tasks": tasks}}
    action = checked(flows.http.post("/actions/compute/run", json=request), 202)
    status = f"/actions/compute/{action['action_id']}"
    eventually(lambda: flows.http.get(f"{status}/status").json()["display_status"] == "1 of 2 tasks done", 10)

    again = checked(flows.http.post("/actions/compute/run", json=request))
    cancelled = checked(flows.http.post(f"{status}/cancel"))
    sleeping_pool.start()
    later = Flows(service.http(), sleeping_pool.endpoint_id)
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
