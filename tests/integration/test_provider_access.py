"""Whom a provider is for: who may see it, run it, and see and manage what others run."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from service import RunningService, running_service

from headrace.action_provider.provider_access import Access

COMPUTE = "/actions/compute/v3"
LAB = "urn:headrace:group:lab"
GLOBUS = "urn:globus:auth:identity:6A0D7b0e-1111-4222-8333-444455556666"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    access = Access(
        visible_to=(LAB,), runnable_by=(LAB, "urn:headrace:user:guest"), administered_by=("urn:headrace:user:boss",)
    )
    visible = Access(visible_to=("all_authenticated_users",), runnable_by=(GLOBUS,))
    providers = {COMPUTE: access, "/actions/compute": visible}
    with running_service(tmp_path_factory.mktemp("service"), run_wait_s=0.0, provider_access=providers) as running:
        for name in ("member", "other member"):
            running.add_user(name.replace(" ", "-"), (LAB,))
        yield running


@pytest.fixture(scope="module")
def users(service: RunningService) -> dict[str, httpx.Client]:
    """Clients of two members of the lab, a guest, an administrator of the provider and a stranger."""
    admin = service.http()

    def token(name: str) -> str:
        return str(admin.post("/api/v1/tokens", json={"user": name}).json()["token"])

    made = {name: service.http(service.add_user(name)) for name in ("guest", "boss", "stranger")}
    return {
        **made,
        **{name: service.http(token(name)) for name in ("member", "other-member")},
        "nobody": service.http(""),
    }


@pytest.fixture(scope="module")
def body(service: RunningService) -> dict[str, Any]:
    function = service.add_function(public=True)
    return {"endpoint_id": service.add_endpoint("away", public=True)[0], "tasks": [{"function_id": function}]}


def run(http: httpx.Client, body: dict[str, Any], **more: Any) -> httpx.Response:
    return http.post(f"{COMPUTE}/run", json={"request_id": uuid.uuid4().hex, "body": body, **more})


@pytest.mark.parametrize(
    ("who", "status"), [("member", 200), ("boss", 200), ("guest", 403), ("stranger", 403), ("nobody", 401)]
)
def test_only_whom_a_provider_is_visible_to_reads_its_description(
    users: dict[str, httpx.Client], who: str, status: int
) -> None:
    for path in (COMPUTE, f"{COMPUTE}/"):
        assert users[who].get(path).status_code == status


def test_what_everybody_with_a_token_may_see_needs_one(users: dict[str, httpx.Client]) -> None:
    assert users["nobody"].get("/actions/compute").status_code == 401
    assert users["nobody"].get("/actions/compute", headers={"Authorization": "Bearer nonsense"}).status_code == 401
    description = users["stranger"].get("/actions/compute").json()
    assert description["visible_to"] == ["all_authenticated_users"]
    assert description["runnable_by"] == [GLOBUS]


def test_a_browser_may_ask_first_whatever_it_may_see(users: dict[str, httpx.Client]) -> None:
    assert users["nobody"].options(COMPUTE).status_code == 204


@pytest.mark.parametrize(
    ("who", "status"), [("member", 202), ("guest", 202), ("boss", 403), ("stranger", 403), ("nobody", 401)]
)
def test_only_whom_a_provider_is_runnable_by_starts_and_lists_actions(
    users: dict[str, httpx.Client], body: dict[str, Any], who: str, status: int
) -> None:
    assert run(users[who], body).status_code == status
    assert users[who].get(f"{COMPUTE}/actions").status_code == (200 if status == 202 else status)


def test_its_administrators_see_and_manage_the_actions_of_all(
    users: dict[str, httpx.Client], body: dict[str, Any]
) -> None:
    here = f"{COMPUTE}/{run(users['member'], body).json()['action_id']}"

    for verb in ("status", "log"):
        assert users["other-member"].get(f"{here}/{verb}").status_code == 404
        assert users["boss"].get(f"{here}/{verb}").status_code == 200
    assert users["other-member"].post(f"{here}/cancel").status_code == 404
    assert users["boss"].post(f"{here}/cancel").json()["status"] == "FAILED"
    assert users["boss"].post(f"{here}/release").status_code == 200
    assert users["boss"].get(f"{here}/status").status_code == 404


def test_monitors_see_and_managers_manage_and_neither_does_the_other(
    users: dict[str, httpx.Client], body: dict[str, Any]
) -> None:
    named = {"monitor_by": [LAB], "manage_by": ["urn:headrace:user:stranger"]}
    here = f"{COMPUTE}/{run(users['guest'], body, **named).json()['action_id']}"

    assert users["member"].get(f"{here}/status").json()["monitor_by"] == [LAB]
    assert users["member"].post(f"{here}/cancel").status_code == 404
    assert users["stranger"].get(f"{here}/status").status_code == 404
    assert users["stranger"].post(f"{here}/resume").json()["status"] == "ACTIVE"
    assert users["stranger"].post(f"{here}/cancel").json()["status"] == "FAILED"
    assert users["nobody"].post(f"{here}/release").status_code == 401
    assert users["stranger"].delete(f"{COMPUTE}/actions/{here.rsplit('/', 1)[1]}").status_code == 200
