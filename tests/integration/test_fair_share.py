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

WORK = """
def work(path, seconds):
    import time
    time.sleep(seconds)  # what makes a backlog: tasks that take their time
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


def submit(service: RunningService, pool: RunningPool, token: str, function: str, calls: list[list[Any]]) -> None:
    body = {"tasks": [{"function_id": function, "args": args} for args in calls]}
    answer = service.http(token).post(f"/api/v1/endpoints/{pool.endpoint_id}/tasks", json=body)
    assert answer.status_code == 202, answer.text


def test_one_users_backlog_delays_anothers_task_by_no_more_than_what_runs(
    service: RunningService, pool: RunningPool, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    work, seen = service.add_function(WORK, "work", public=True), service.add_function(SEEN, "seen", public=True)
    ada, grace = service.add_user("ada"), service.add_user("grace")
    for _ in range(4):
        submit(service, pool, ada, work, [[str(trace), 0.01]] * (BACKLOG // 4))
    eventually(lambda: trace.exists() and trace.stat().st_size > 50, 10)

    before = trace.stat().st_size
    url = f"/api/v1/functions/{seen}/invoke"
    answer = service.http(grace).post(url, json={"endpoint_id": pool.endpoint_id, "args": [str(trace)], "wait": "8s"})

    # Two workers do 200 of Ada's tasks a second: the time to ask, and a few frames, but not her backlog.
    assert answer.json()["result"] - before < BACKLOG // 10, answer.json()


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
