"""Tasks with plain JSON: through the service, the bus and a real pool, and back."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from gates import WAIT_FOR
from running_pool import RunningPool, running_pool
from service import RunningService
from waiting import eventually

SOURCE = """
import time

def echo(*args, **kwargs):
    return {"args": list(args), "kwargs": kwargs}

def fail(text):
    raise ValueError(text)

def an_object():
    return object()

"""
SOURCE += WAIT_FOR


@pytest.fixture
def http(service: RunningService, pool: RunningPool) -> httpx.Client:
    return service.http()


def function(service: RunningService, name: str) -> str:
    return service.add_function(SOURCE, name)


def submit(http: httpx.Client, pool: RunningPool, body: dict[str, Any]) -> httpx.Response:
    return http.post(f"/api/v1/endpoints/{pool.endpoint_id}/tasks", json=body)


def test_a_function_is_invoked_with_json_and_answers_with_json(service: RunningService, http: httpx.Client) -> None:
    body = {"args": [1, "zwei", None, [True, {"x": 1.5}]], "kwargs": {"key": "ä"}}
    answer = http.post(f"/api/v1/functions/{function(service, 'echo')}/invoke", json={**body, "wait": "20s"})
    assert answer.status_code == 200
    assert answer.json()["state"] == "succeeded"
    assert answer.json()["result"] == body


def test_a_function_is_invoked_without_any_body(service: RunningService, http: httpx.Client) -> None:
    answer = http.post(f"/api/v1/functions/{function(service, 'echo')}/invoke", params={"wait": "20"})
    assert answer.json()["result"] == {"args": [], "kwargs": {}}


def test_an_exception_comes_back_as_plain_json(service: RunningService, http: httpx.Client) -> None:
    answer = http.post(f"/api/v1/functions/{function(service, 'fail')}/invoke", json={"args": ["no"], "wait": 20})
    assert answer.status_code == 200
    document = answer.json()
    assert document["state"] == "failed"
    assert "result" not in document
    error = document["error"]
    assert (error["code"], error["type"], error["message"]) == ("TaskFailed", "ValueError", "no")
    assert "raise ValueError(text)" in error["traceback"]


def test_a_value_that_json_cannot_carry_is_an_error_of_the_task(service: RunningService, http: httpx.Client) -> None:
    answer = http.post(f"/api/v1/functions/{function(service, 'an_object')}/invoke", json={"wait": "20s"})
    document = answer.json()
    assert document["state"] == "failed"
    assert document["error"]["code"] == "ResultNotSerialisable"


def test_many_tasks_are_submitted_at_once_and_found_by_task_and_by_group(
    service: RunningService, http: httpx.Client, pool: RunningPool
) -> None:
    echo, fail = function(service, "echo"), function(service, "fail")
    calls = [{"function_id": echo, "args": [n]} for n in range(100)] + [{"function_id": fail, "args": ["x"]}]
    answer = submit(http, pool, {"tasks": calls, "wait": "30s"})
    assert answer.status_code == 200
    tasks = answer.json()["tasks"]
    assert [task["result"]["args"] for task in tasks[:100]] == [[n] for n in range(100)]
    assert tasks[100]["state"] == "failed"

    group = http.get(f"/api/v1/task-groups/{answer.json()['task_group_id']}").json()
    assert {task["task_id"] for task in group["tasks"]} == {task["task_id"] for task in tasks}
    assert all({"bundle", "index", "endpoint_id"} <= set(task) for task in group["tasks"])
    one = http.get(f"/api/v1/tasks/{tasks[7]['task_id']}").json()
    assert one["result"]["args"] == [7]
    assert one["endpoint_id"] == pool.endpoint_id


def test_a_long_poll_answers_when_the_task_ends(
    service: RunningService, http: httpx.Client, pool: RunningPool, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    answer = submit(http, pool, {"function_id": function(service, "wait_for"), "args": [str(gate)]})
    assert answer.status_code == 202
    task_id = answer.json()["tasks"][0]["task_id"]
    assert answer.json()["tasks"][0]["state"] == "pending"

    early = http.get(f"/api/v1/tasks/{task_id}", params={"wait": "300ms"}, timeout=3)
    assert early.json()["state"] in ("pending", "running")

    opener = threading.Timer(0.3, gate.touch)
    opener.start()
    late = http.get(f"/api/v1/tasks/{task_id}", params={"wait": "15s"})
    assert late.json()["result"] == "done"
    opener.join()

    refused = http.get(f"/api/v1/tasks/{task_id}", params={"wait": "soon"})
    assert refused.status_code == 422, "also where nothing is to be waited for"
    assert refused.json()["errors"][0]["pointer"] == "?wait"


def test_a_task_that_has_not_started_is_cancelled(
    service: RunningService, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with running_pool(service, tmp_path_factory.mktemp("late"), started=False, name="late") as late:
        http = service.http()
        answer = submit(http, late, {"function_id": function(service, "echo")})
        task_id = answer.json()["tasks"][0]["task_id"]
        cancelled = http.post(f"/api/v1/tasks/{task_id}/cancel")
        assert cancelled.status_code == 200
        assert cancelled.json()["state"] == "cancelled"
        late.start()
        ended = http.get(f"/api/v1/tasks/{task_id}", params={"wait": "15s"}).json()
        assert ended["state"] == "cancelled"
        again = http.post(f"/api/v1/tasks/{task_id}/cancel", json={"force": True})
        assert again.status_code == 200
        assert again.json()["state"] == "cancelled"
        http.delete(f"/api/v1/endpoints/{late.endpoint_id}")


def test_a_running_task_is_cancelled_by_force(
    service: RunningService, http: httpx.Client, pool: RunningPool, tmp_path: Path
) -> None:
    answer = submit(http, pool, {"function_id": function(service, "wait_for"), "args": [str(tmp_path / "never")]})
    task_id = answer.json()["tasks"][0]["task_id"]
    eventually(lambda: http.get(f"/api/v1/tasks/{task_id}").json()["state"] == "running")
    assert http.post(f"/api/v1/tasks/{task_id}/cancel", json={"force": True}).status_code == 202
    assert http.get(f"/api/v1/tasks/{task_id}", params={"wait": "15s"}).json()["state"] == "cancelled"


def test_tasks_of_others_are_not_there(service: RunningService, http: httpx.Client, pool: RunningPool) -> None:
    answer = submit(http, pool, {"function_id": function(service, "echo"), "wait": "20s"}).json()
    stranger = service.http(service.add_user("stranger"))
    task_id = answer["tasks"][0]["task_id"]
    assert stranger.get(f"/api/v1/tasks/{task_id}").status_code == 404
    assert stranger.post(f"/api/v1/tasks/{task_id}/cancel").status_code == 404
    assert stranger.get(f"/api/v1/task-groups/{answer['task_group_id']}").status_code == 404
    assert submit(stranger, pool, {"function_id": function(service, "echo")}).status_code == 404


@pytest.mark.parametrize(
    "task_id", [str(uuid.UUID(int=4 << 76 | 2 << 62)), "nonsense", str(uuid.UUID(int=8 << 76 | 2 << 62))]
)
def test_an_unknown_task_is_not_found(http: httpx.Client, task_id: str) -> None:
    assert http.get(f"/api/v1/tasks/{task_id}").status_code == 404


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, ""),
        ({"function_id": "12"}, "/function_id"),
        ({"function_id": str(uuid.uuid4()), "args": {"a": 1}}, "/args"),
        ({"function_id": str(uuid.uuid4()), "kwargs": [1]}, "/kwargs"),
        ({"tasks": []}, "/tasks"),
        ({"tasks": [{"args": []}]}, "/tasks/0"),
        ({"tasks": [{"function_id": str(uuid.uuid4())}], "args": [1]}, "/args"),
        ({"function_id": str(uuid.uuid4()), "wait": -1}, "/wait"),
        ({"function_id": str(uuid.uuid4()), "options": {"max_retries": 1.5}}, "/options/max_retries"),
        ({"function_id": str(uuid.uuid4()), "options": {"task_timeout_s": 0}}, "/options/task_timeout_s"),
        ({"function_id": str(uuid.uuid4()), "options": {"patience_s": 1}}, "/options"),
        ({"function_id": str(uuid.uuid4()), "task_timeout_s": 1}, ""),
    ],
)
def test_a_wrong_submission_is_refused_with_the_place(
    http: httpx.Client, pool: RunningPool, body: dict[str, Any], pointer: str
) -> None:
    answer = submit(http, pool, body)
    assert answer.status_code == 422
    assert pointer in {each["pointer"] for each in answer.json()["errors"]}


def test_a_wrong_wait_is_refused_with_the_forms_that_are_taken(service: RunningService, http: httpx.Client) -> None:
    function_id = function(service, "echo")
    for wait in ("soon", "5 h", "-1s"):
        answer = http.post(f"/api/v1/functions/{function_id}/invoke", json={"wait": wait})
        assert answer.status_code == 422
        assert "5, 5s, 500ms or 1m" in answer.json()["detail"]


def test_an_unknown_function_is_refused_before_anything_is_queued(http: httpx.Client, pool: RunningPool) -> None:
    answer = submit(http, pool, {"function_id": str(uuid.uuid4())})
    assert answer.status_code == 404
    assert "no function" in answer.json()["detail"]


def test_submissions_are_counted(service: RunningService, http: httpx.Client, pool: RunningPool) -> None:
    submit(http, pool, {"function_id": function(service, "echo")})
    eventually(lambda: 'headrace_tasks_submitted_total{door="rest"}' in http.get("/metrics").text)


def test_a_long_poll_ends_when_its_caller_hangs_up(service: RunningService, tmp_path: Path, pool: RunningPool) -> None:
    http = service.http()
    gate = tmp_path / "gate"
    answer = submit(http, pool, {"function_id": function(service, "wait_for"), "args": [str(gate)]})
    task_id = answer.json()["tasks"][0]["task_id"]
    with pytest.raises(httpx.ReadTimeout), service.http() as impatient:
        impatient.get(f"/api/v1/tasks/{task_id}", params={"wait": "60s"}, timeout=0.5)
    eventually(lambda: "headrace_http_open_requests 1.0" in http.get("/metrics").text)
    gate.touch()
    assert http.get(f"/api/v1/tasks/{task_id}", params={"wait": "15s"}).json()["result"] == "done"
