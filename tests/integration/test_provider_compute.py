"""Actions that run: with a real bus, a real service and a real pool."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from flow_client import BASE, NOTE, RAISE, SQUARE, Flows, at_once, checked, task
from gates import WAIT_FOR
from headrace_up import is_alive
from plain_http import NO_TLS
from running_pool import RunningPool, running_pool
from service import RunningService, running_service, serving
from waiting import eventually

SPAWN = """
def spawn(path):
    import subprocess

    with subprocess.Popen(["sleep", "600"]) as child:
        with open(path, "a") as file:
            file.write(f"{child.pid}\\n")
"""


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


def test_a_quick_action_is_answered_as_succeeded_at_once(service: RunningService, flows: Flows) -> None:
    square = service.add_function(SQUARE, "square", entry_point="square")

    two = ({"function_id": square, "args": [3]}, {"function_id": square, "kwargs": {"x": 4}})

    action = at_once(lambda: flows.run(*two))

    assert action["status"] == "SUCCEEDED"
    assert action["details"]["result"] == [9, 16]
    assert [each["output"] for each in action["details"]["results"]] == [9, 16]
    assert len({each["task_id"] for each in action["details"]["results"]}) == 2
    assert action["display_status"] == "2 tasks done"
    assert action["start_time"] <= action["completion_time"]


def test_none_is_a_result(service: RunningService, flows: Flows) -> None:
    nothing = task(service, "def nothing():\n    pass\n", "nothing")

    action = at_once(lambda: flows.run(nothing))

    assert action["status"] == "SUCCEEDED"
    assert action["details"]["result"] == [None]


def test_the_end_never_changes(service: RunningService, flows: Flows) -> None:
    action = flows.ended(checked(flows.run(task(service, SQUARE, "square", 5)), 202))
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
    states = cancelled["details"]["states"]
    assert (states["succeeded"], states["cancelled"] + states.get("running", 0)) == (1, 6)  # on a busy machine, later
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
        httpx.Client(base_url=url, headers=headers, trust_env=False, verify=NO_TLS, timeout=20) as http,
    ):
        impatient = Flows(http, flows.endpoint_id)

        # About 6 ms on a quiet machine: if all are too late, something waits for a timer.
        assert at_once(lambda: impatient.run(square))["status"] == "SUCCEEDED"
