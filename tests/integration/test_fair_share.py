"""Fair share of a shared endpoint: what one user has queued does not stand in front of another user's task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running_pool import RunningPool, running_pool
from service import RunningService
from waiting import eventually

BACKLOG = 4000
MOST_BEFORE = 20

WORK = """
def work(path):
    with open(path, "a") as file:
        file.write(".")
"""
WAIT = """
def wait(path, name, gate):
    import os, time
    with open(path, "a") as file:
        file.write(name)
    while not os.path.exists(gate):
        time.sleep(0.01)  # until the test opens the gate
"""
SEEN = """
def seen(path):
    import os
    return os.path.getsize(path)
"""


@pytest.fixture
def pool(service: RunningService, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RunningPool]:
    """A pool of an endpoint that everybody may use."""
    with running_pool(service, tmp_path / "pool", name=request.node.name[:60]) as pool:
        service.http().patch(f"/api/v1/endpoints/{pool.endpoint_id}", json={"public": True})
        yield pool


def submit(service: RunningService, pool: RunningPool, token: str, function: str, calls: list[list[Any]]) -> list[str]:
    body = {"tasks": [{"function_id": function, "args": args} for args in calls]}
    answer = service.http(token).post(f"/api/v1/endpoints/{pool.endpoint_id}/tasks", json=body)
    assert answer.status_code == 202, answer.text
    return [task["task_id"] for task in answer.json()["tasks"]]


def test_one_users_backlog_delays_anothers_task_by_no_more_than_what_runs(
    service: RunningService, pool: RunningPool, tmp_path: Path
) -> None:
    trace, started, gate = tmp_path / "trace", tmp_path / "started", tmp_path / "gate"
    trace.touch()
    wait, work = service.add_function(WAIT, "wait", public=True), service.add_function(WORK, "work", public=True)
    seen = service.add_function(SEEN, "seen", public=True)
    ada, grace = service.add_user("ada"), service.add_user("grace")

    def ended(task: str) -> Any:
        return service.http(grace).get(f"/api/v1/tasks/{task}", params={"wait": "8s"}).json()

    # The pool fetches the code of a function once: that is to be no part of it.
    first = submit(service, pool, grace, seen, [[str(trace)]])[0]
    eventually(lambda: ended(first)["state"] == "succeeded", 20, "the pool knows Grace's function")
    submit(service, pool, ada, wait, [[str(started), "a", str(gate)]] * 2)
    eventually(lambda: started.exists() and started.read_text() == "aa", 10, "both workers are Ada's")
    for _ in range(4):
        submit(service, pool, ada, work, [[str(trace)]] * (BACKLOG // 4))
    task = submit(service, pool, grace, seen, [[str(trace)]])[0]
    eventually(lambda: taken(service, pool).get("urn:headrace:user:grace") == 1, 10, "the pool has Grace's task")

    gate.touch()

    eventually(lambda: ended(task)["state"] == "succeeded", 20, "Grace's task ends")
    # What the workers had, and a frame or two behind that: no more of the backlog.
    assert ended(task)["result"] <= MOST_BEFORE


def taken(service: RunningService, pool: RunningPool) -> dict[str, int]:
    """How many bundles of whom are in the pool's hands."""
    queue = service.http().get(f"/api/v1/endpoints/{pool.endpoint_id}/queue").json()
    return {each["principal"]: each["taken"] for each in queue["principals"]}


def test_a_user_never_has_more_running_than_the_administrator_allows(
    service: RunningService, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    trace, gate = tmp_path / "trace", tmp_path / "gate"
    wait = service.add_function(WAIT, "wait", public=True)
    with running_pool(service, tmp_path / "pool", started=False, name=request.node.name[:60]) as pool:
        service.http().patch(f"/api/v1/endpoints/{pool.endpoint_id}", json={"public": True})
        document = json.loads(pool.settings_path.read_text())
        share = {"most_running_per_principal": 1, "weights": {"urn:headrace:user:admin": 3}}
        pool.settings_path.write_text(json.dumps({**document, "fair_share": share}))
        pool.start()
        submit(service, pool, service.token, wait, [[str(trace), "a", str(gate)]] * 5)
        eventually(lambda: trace.exists() and trace.read_text() == "a", 10)

        # One of two workers is free, but not for the same user.
        submit(service, pool, service.add_user("hopper"), wait, [[str(trace), "h", str(gate)]])
        eventually(lambda: trace.read_text() == "ah", 10)
        gate.touch()

        eventually(lambda: sorted(trace.read_text()) == list("aaaaah"), 10)
