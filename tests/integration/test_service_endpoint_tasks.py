"""The tasks at an endpoint over HTTP: its owner sees and cancels them, nobody else does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from service import RunningService, running_service

ADA, BEN = "urn:headrace:user:ada", "urn:headrace:user:ben"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service"), token_cache_s=0.0) as running:
        running.tokens = {name: running.add_user(name) for name in ("ada", "ben")}  # type: ignore[attr-defined]  # ours
        yield running


@pytest.fixture
def ada(service: RunningService) -> httpx.Client:
    return service.http(service.tokens["ada"])  # type: ignore[attr-defined]  # set by the fixture above


@pytest.fixture
def ben(service: RunningService) -> httpx.Client:
    return service.http(service.tokens["ben"])  # type: ignore[attr-defined]  # set by the fixture above


@pytest.fixture
def lab(service: RunningService, request: pytest.FixtureRequest) -> tuple[str, httpx.Client]:
    """An endpoint of the administrator's that everybody may use, without a pool; and a client that acts as itself."""
    endpoint_id, token = service.add_endpoint(request.node.name[:60], public=True)
    return f"/api/v1/endpoints/{endpoint_id}", service.http(token)


def submitted(client: httpx.Client, path: str, function_id: str, count: int) -> list[str]:
    answer = client.post(f"{path}/tasks", json={"tasks": [{"function_id": function_id, "args": [1]}] * count})
    return [task["task_id"] for task in answer.json()["tasks"]]


def states(client: httpx.Client, tasks: list[str]) -> set[str]:
    return {client.get(f"/api/v1/tasks/{task}").json()["state"] for task in tasks}


def test_the_owner_and_the_endpoint_see_everybodys_tasks_and_nobody_else_does(
    service: RunningService, ada: httpx.Client, ben: httpx.Client, lab: tuple[str, httpx.Client]
) -> None:
    path, itself = lab
    function_id = service.add_function(public=True)
    mine = {ADA: submitted(ada, path, function_id, 2), BEN: submitted(ben, path, function_id, 1)}

    for client in (service.http(), itself):
        found = client.get(f"{path}/tasks").json()["tasks"]
        assert {(task["task_id"], task["principal"]) for task in found} == {
            (task, principal) for principal, tasks in mine.items() for task in tasks
        }
        assert {task["state"] for task in found} == {"pending"}
    assert ada.get(f"{path}/tasks").status_code == 403
    assert ada.post(f"{path}/tasks/cancel", json={"everything": True}).status_code == 403


def test_a_page_goes_on_where_the_one_before_ended(
    service: RunningService, ada: httpx.Client, lab: tuple[str, httpx.Client]
) -> None:
    path, itself = lab
    tasks = submitted(ada, path, service.add_function(public=True), 3)
    first = itself.get(f"{path}/tasks", params={"limit": 2}).json()
    second = itself.get(f"{path}/tasks", params={"limit": 2, "marker": first["marker"]}).json()
    assert {task["task_id"] for task in [*first["tasks"], *second["tasks"]]} == set(tasks)


def test_tasks_end_by_name_by_principal_or_all_of_them(
    service: RunningService, ada: httpx.Client, ben: httpx.Client, lab: tuple[str, httpx.Client]
) -> None:
    path, itself = lab
    function_id = service.add_function(public=True)
    adas, bens = submitted(ada, path, function_id, 4), submitted(ben, path, function_id, 2)
    elsewhere, _ = service.add_endpoint("elsewhere", public=True)
    others = submitted(ada, f"/api/v1/endpoints/{elsewhere}", function_id, 1)

    def cancelled(**body: Any) -> dict[str, Any]:
        answer = itself.post(f"{path}/tasks/cancel", json=body)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    answer = cancelled(task_ids=[adas[0], bens[0], others[0]])
    assert answer["states"] == {"cancelled": 2, "unknown": 1}
    assert "owner of the endpoint" in ben.get(f"/api/v1/tasks/{bens[0]}").json()["error"]["message"]
    cancelled(principal=BEN)
    assert states(ben, bens) == {"cancelled"}
    assert states(ada, adas[1:]) == {"pending"}
    assert cancelled(pool="another", principal=ADA)["found"] == 0
    cancelled(everything=True)
    assert states(ada, adas) == {"cancelled"}
    assert states(ada, others) == {"pending"}
    (task,) = (each for each in itself.get(f"{path}/tasks").json()["tasks"] if each["task_id"] == bens[0])
    assert task["error"].keys() == {"code", "type"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "say which tasks"),
        ({"everything": False, "force": True}, "say which tasks"),
        ({"everything": True, "principal": ADA}, "everything cannot stand beside principal"),
        (
            {"task_ids": ["0197f3f2-3b5f-8000-8000-000000000000"], "pool": "default"},
            "task_ids cannot stand beside pool",
        ),
        ({"task_ids": ["7a3c6b4e-0f0e-4a57-9f3a-3f0c6b0a1d11"]}, "task_ids:"),
    ],
)
def test_nothing_is_cancelled_by_leaving_something_out(
    lab: tuple[str, httpx.Client], body: dict[str, Any], said: str
) -> None:
    path, itself = lab
    answer = itself.post(f"{path}/tasks/cancel", json=body)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
