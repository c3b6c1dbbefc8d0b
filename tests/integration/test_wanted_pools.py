"""Pools that options ask for, as the service sees them: wanted, answered for, woken up and given up. A manager is
played by requests."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from service import RunningService, running_service
from waiting import eventually

from headrace.sdk.client import Client
from headrace.sdk.errors import PoolFailed
from headrace.sdk.executor import Executor

ENDPOINTS = "/api/v1/endpoints"
BASE = "/actions/compute/v3"
SDK = {"protocol": 1, "sdk_version": "0.1.0", "python_version": "3.11.7"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    # What a manager answers is waited for, however slow the machine is.
    patience: dict[str, Any] = {"pool_answer_s": 30.0, "request_timeout_s": 40.0}
    with running_service(tmp_path_factory.mktemp("service"), pools_sweep_s=60.0, **patience) as running:
        yield running


@pytest.fixture
def client(service: RunningService) -> Iterator[Client]:
    with Client(service.url, service.token) as made:
        yield made


class Manager:
    """One manager of an endpoint, by what it says over HTTP."""

    def __init__(self, service: RunningService, endpoint_id: str, token: str, name: str = "here") -> None:
        self.endpoint_id, self.name = endpoint_id, name
        self.path = f"{ENDPOINTS}/{endpoint_id}"
        self.http = service.http(token)

    def is_there(self) -> None:
        body = {
            "host": "vm",
            "python_version": "3.11.7",
            "headrace_version": "0.1.0",
            "pools": [],
            "manager": self.name,
        }
        assert self.http.put(f"{self.path}/presence", json=body).status_code == 204

    def wanted(self, wait: str = "10s", **query: str) -> list[dict[str, Any]]:
        answer = self.http.get(f"{self.path}/wanted-pools", params={"manager": self.name, "wait": wait, **query})
        assert answer.status_code == 200, answer.text
        pools: list[dict[str, Any]] = answer.json()["pools"]
        return pools

    def report(self, pool: dict[str, Any], state: str, problem: str | None = None) -> None:
        body = {"manager": self.name, "state": state, "answers": pool["wanted"], "problem": problem}
        answer = self.http.post(f"{self.path}/pools/{pool['pool']}/reports", json=body)
        assert answer.status_code == 204, answer.text

    def open_pool(self, pool: str, token: str | None = None) -> httpx.Response:
        body = {
            "pool": pool,
            "python_version": "3.11.7",
            "headrace_version": "0.1.0",
            "host": "vm",
            "protocol": 1,
            "lanes": True,
        }
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.http.post(f"{self.path}/pools", json=body, headers=headers)


@pytest.fixture
def manager(service: RunningService, request: pytest.FixtureRequest) -> Manager:
    return Manager(service, *service.add_endpoint(request.node.name[:100]))


def session(service: RunningService, endpoint_id: str, options: dict[str, Any] | None, **more: Any) -> httpx.Response:
    body = {**SDK, "endpoint_id": endpoint_id, "user_endpoint_config": options, **more}
    return service.http().post("/api/v1/sessions", json=body)


def test_options_lead_to_a_pool_of_ones_own_which_the_manager_hears_of(
    service: RunningService, manager: Manager
) -> None:
    assert manager.wanted("0s") == []

    opened = session(service, manager.endpoint_id, {"nodes": 2}).json()
    again = session(service, manager.endpoint_id, {"nodes": 2}).json()
    default = session(service, manager.endpoint_id, {}).json()

    assert opened["pool"] == again["pool"] != default["pool"] == "default"
    wanted = manager.wanted()[0]
    assert wanted["pool"] == opened["pool"]
    assert wanted["user_endpoint_config"] == {"nodes": 2}
    assert wanted["principal"] == opened["principal"]
    assert wanted["runtime"] == {"python": "3.11.7", "headrace": "0.1.0"}
    manager.report(wanted, "running")
    assert manager.wanted("0s") == []
    assert [each["pool"] for each in manager.wanted(restarted="true")] == [opened["pool"]]


def test_a_manager_that_waits_hears_of_a_pool_at_once(service: RunningService, manager: Manager) -> None:
    with concurrent.futures.ThreadPoolExecutor() as threads:
        waiting = threads.submit(manager.wanted, "30s")
        session(service, manager.endpoint_id, {"nodes": 3})

        assert waiting.result(60)[0]["user_endpoint_config"] == {"nodes": 3}


def test_options_that_the_endpoint_refuses_are_refused_by_the_session(
    service: RunningService, manager: Manager
) -> None:
    manager.is_there()
    with concurrent.futures.ThreadPoolExecutor() as threads:
        opening = threads.submit(session, service, manager.endpoint_id, {"knots": 1})
        manager.report(manager.wanted()[0], "failed", "the option 'knots': did you mean 'nodes'?")

        answer = opening.result(60)

    assert answer.status_code == 422
    assert answer.json()["code"] == "PoolFailed"
    assert answer.json()["detail"] == "the option 'knots': did you mean 'nodes'?"


def test_a_pools_token_opens_that_pool_and_nothing_else(service: RunningService, manager: Manager) -> None:
    session(service, manager.endpoint_id, {"nodes": 4})
    wanted = manager.wanted()[0]
    token = wanted["pool_token"]

    assert manager.open_pool(wanted["pool"], token).status_code == 201
    assert manager.open_pool("default", token).status_code == 403
    assert manager.open_pool(wanted["pool"], token[:-1] + ("0" if token[-1] != "0" else "1")).status_code == 401
    assert manager.http.get(f"{manager.path}/wanted-pools?manager=x", headers=bearer(token)).status_code == 401
    # Registered anew: what the old registration gave is good for nothing.
    service.add_endpoint("again", endpoint_id=manager.endpoint_id)
    assert manager.open_pool(wanted["pool"], token).status_code == 401


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_the_first_task_for_a_pool_that_sleeps_wakes_it(
    service: RunningService, manager: Manager, client: Client
) -> None:
    with Executor(manager.endpoint_id, client, user_endpoint_config={"nodes": 5}) as executor:
        first = executor.submit(abs, -1)
        wanted = manager.wanted()[0]
        manager.report(wanted, "running")
        eventually(lambda: queued(service, manager.endpoint_id, wanted["pool"]))
        assert client.cancel(first.task_id or "")["state"] == "cancelled"
        manager.report(manager.wanted("0s", restarted="true")[0], "stopped")
        assert manager.wanted("0s") == []

        second = executor.submit(abs, -2)

        assert manager.wanted()[0]["wanted"] == 2
        assert second.cancel()


def test_a_task_that_was_stored_while_no_service_was_there_wakes_its_pool_when_one_is_back(tmp_path: Path) -> None:
    with (
        running_service(tmp_path, pools_sweep_s=60.0) as service,
        Client(service.url, service.token) as client,
    ):
        manager = Manager(service, *service.add_endpoint("left"))
        with Executor(manager.endpoint_id, client, user_endpoint_config={"nodes": 12}) as executor:
            first = executor.submit(abs, -1)
            wanted = manager.wanted()[0]
            eventually(lambda: queued(service, manager.endpoint_id, wanted["pool"]))
            assert client.cancel(first.task_id or "")["state"] == "cancelled"
            manager.report(wanted, "stopped")
            service.stop_serving()
            second = executor.submit(abs, -2)
            eventually(lambda: queued(service, manager.endpoint_id, wanted["pool"]))

            service.serve_again()

            assert manager.wanted()[0]["wanted"] == 2
            assert second.cancel()


def test_what_is_queued_for_a_pool_that_cannot_be_had_ends_with_the_endpoints_words(
    service: RunningService, manager: Manager, client: Client
) -> None:
    with Executor(manager.endpoint_id, client, user_endpoint_config={"nodes": 6}) as executor:
        futures = [executor.submit(abs, -x) for x in range(20)]
        manager.is_there()
        # All of them are stored: later ones would ask again.
        eventually(lambda: len(list(client.list_tasks(endpoint_id=manager.endpoint_id, state="pending"))) == 20, 10)
        manager.report(manager.wanted()[0], "failed", "engine.provider: there is no queue 'short'")

        for future in futures:
            with pytest.raises(PoolFailed, match="no queue 'short'"):
                future.result(60)

        # It may work by now: whoever submits asks again, and is told again.
        late = executor.submit(abs, -1)
        manager.report(manager.wanted()[0], "failed", "still none")
        with pytest.raises(PoolFailed, match="still none"):
            late.result(60)


def test_a_pool_fails_only_when_no_machine_of_the_endpoint_can_have_it(
    service: RunningService, manager: Manager, client: Client
) -> None:
    there = Manager(service, manager.endpoint_id, "", name="there")
    there.http = manager.http
    manager.is_there()
    there.is_there()
    with Executor(manager.endpoint_id, client, user_endpoint_config={"nodes": 7}) as executor:
        with concurrent.futures.ThreadPoolExecutor() as threads:
            submitted = threads.submit(executor.submit, abs, -1)
            manager.report(manager.wanted()[0], "failed", "not here")
            there.report(there.wanted()[0], "running")
            future = submitted.result(60)

        assert not future.done()
        assert future.cancel()


def test_tasks_that_nobody_takes_wake_their_pool_though_a_manager_said_it_ran(tmp_path: Path) -> None:
    with (
        running_service(tmp_path, pools_sweep_s=0.1) as service,
        Client(service.url, service.token) as client,
    ):
        manager = Manager(service, *service.add_endpoint("left"))
        with Executor(manager.endpoint_id, client, user_endpoint_config={"nodes": 8}) as executor:
            future = executor.submit(abs, -1)
            manager.report(manager.wanted()[0], "running")

            assert manager.wanted()[0]["wanted"] > 1
            assert future.cancel()


def test_the_status_shows_pools_to_those_whom_they_concern(service: RunningService, manager: Manager) -> None:
    service.http().patch(manager.path, json={"public": True})
    ada = service.http(service.add_user("ada"))
    grace = service.http(service.add_user("grace"))
    opened = ada.post(
        "/api/v1/sessions", json={**SDK, "endpoint_id": manager.endpoint_id, "user_endpoint_config": {"a": 1}}
    )
    manager.is_there()
    began = datetime.now(UTC)
    manager.report(manager.wanted()[0], "failed", "no such queue")

    def seen(http: httpx.Client) -> list[dict[str, Any]]:
        pools: list[dict[str, Any]] = http.get(f"{manager.path}/status").json()["pools"]
        return pools

    pool = {"pool": opened.json()["pool"], "principal": opened.json()["principal"], "host": "vm"}
    (shown,) = eventually(lambda: seen(ada))
    assert shown == {**pool, "state": "failed", "problem": "no such queue", "since": shown["since"]}
    assert datetime.fromisoformat(shown["since"]) >= began
    assert seen(service.http()) == [shown]
    assert seen(grace) == []


def test_a_pool_that_cannot_be_had_is_forgotten_soon_after_nobody_asks_for_it_any_more(tmp_path: Path) -> None:
    with running_service(tmp_path, failed_pools_kept_s=1.0) as service:
        manager = Manager(service, *service.add_endpoint("strict"))
        manager.is_there()
        session(service, manager.endpoint_id, {"nodes": 1}, wanted=False)
        session(service, manager.endpoint_id, {"knots": 1}, wanted=False)
        for each in manager.wanted():
            manager.report(each, *(("failed", "no knots") if "knots" in each["user_endpoint_config"] else ("stopped",)))
        status = service.http().get
        eventually(lambda: status(f"{manager.path}/status").json()["pools"] == [], message="nothing is shown of it")

        for options in ({"nodes": 1}, {"knots": 1}):
            session(service, manager.endpoint_id, options, wanted=False)
        # It is a new wish; the one that only sleeps is still known.
        assert [(each["user_endpoint_config"], each["wanted"]) for each in manager.wanted()] == [({"knots": 1}, 1)]


def test_pools_of_a_manager_that_stops_sleep_until_there_is_work(service: RunningService, manager: Manager) -> None:
    session(service, manager.endpoint_id, {"nodes": 11})
    manager.is_there()
    manager.report(manager.wanted()[0], "running")

    assert manager.http.delete(f"{manager.path}/presence?manager=here").status_code == 204

    assert manager.wanted("0s", restarted="true") == []
    session(service, manager.endpoint_id, {"nodes": 11})
    assert [each["wanted"] for each in manager.wanted()] == [2]


def test_renewing_a_session_wakes_no_pool(service: RunningService, manager: Manager) -> None:
    session(service, manager.endpoint_id, {"nodes": 9})
    manager.report(manager.wanted()[0], "stopped")

    assert session(service, manager.endpoint_id, {"nodes": 9}, wanted=False).status_code == 201

    assert manager.wanted("0s") == []
    session(service, manager.endpoint_id, {"nodes": 9})
    assert manager.wanted("0s")


def test_rest_and_actions_take_options_too(service: RunningService, manager: Manager) -> None:
    function = service.add_function()
    http = service.http()
    options = {"nodes": 10}
    body = {"function_id": function, "args": [1], "user_endpoint_config": options}
    action = {"endpoint_id": manager.endpoint_id, "tasks": [{"function_id": function}], "user_endpoint_config": options}

    assert http.post(f"{manager.path}/tasks", json=body).status_code == 202
    invoked = {"endpoint_id": manager.endpoint_id, "user_endpoint_config": options, "wait": 0}
    assert http.post(f"/api/v1/functions/{function}/invoke", json=invoked).status_code == 202
    run = http.post(f"{BASE}/run", json={"request_id": "1", "body": action})
    assert run.status_code == 202, run.text

    pool = manager.wanted()[0]["pool"]
    assert len(manager.wanted()) == 1
    assert eventually(lambda: queued(service, manager.endpoint_id, pool) == 3)
    assert http.get(f"{manager.path}/queue").json()["own"]["used"] == 3


def queued(service: RunningService, endpoint_id: str, pool: str) -> int:
    async def count(connection: Any) -> int:
        pattern = f"task.{endpoint_id.replace('-', '')}.{pool}.>"
        info = await connection.api("STREAM.INFO.TASKS", {"subjects_filter": pattern})
        return len(info["state"].get("subjects") or ())

    return int(service.bus(count))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"x": "y" * 70_000}, "at most 65536"),
        (json.loads('{"x": ' + "[" * 31 + "]" * 31 + "}"), None),
        # What this process can read, managers further down their own stacks cannot: it would end them.
        (json.loads('{"x": ' + "[" * 32 + "]" * 32 + "}"), "nested more than 32 deep"),
        (json.loads('{"x": ' + "[" * 500 + "]" * 500 + "}"), "nested more than 32 deep"),
        ("text", "is not of type"),
        ({"x": float("1e308")}, None),
    ],
)
def test_options_that_cannot_be_kept_are_refused(
    service: RunningService, manager: Manager, options: Any, problem: str | None
) -> None:
    answer = session(service, manager.endpoint_id, options)

    assert answer.status_code == (422 if problem else 201)
    assert problem is None or problem in answer.text
