"""Door 2, as a workflow engine knows it: `headrace up`, an action provider, and nothing but HTTP."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from pathlib import Path
from typing import Any

import httpx
from headrace_up import Up, headrace_up
from plain_http import NO_TLS
from waiting import eventually

from headrace.schemas import validate

BASE = "/actions/compute/v3"

STATISTICS = """
def statistics(values, digits=2):
    mean = sum(values) / len(values)
    return {"mean": round(mean, digits), "min": min(values), "max": max(values)}
"""
APPEND = """
def append(path, line):
    with open(path, "a") as file:
        file.write(line)
    return line
"""


def client(up: Up) -> httpx.Client:
    return httpx.Client(
        base_url=up.url, headers={"Authorization": f"Bearer {up.token}"}, timeout=20, trust_env=False, verify=NO_TLS
    )


def register(http: httpx.Client, source: str, name: str) -> str:
    body = {"name": name, "source": source, "entry_point": name, "python_version": "3.11.0"}
    response = http.post("/api/v1/functions", json=body)
    assert response.status_code == 201, response.text
    return str(response.json()["function_id"])


def request(up: Up, *tasks: dict[str, Any], request_id: str = "") -> dict[str, Any]:
    return {
        "request_id": request_id or uuid.uuid4().hex,
        "body": {"endpoint_id": up.endpoint_id, "tasks": list(tasks)},
    }


def checked(response: httpx.Response, status: int = 200) -> dict[str, Any]:
    assert response.status_code == status, response.text
    document: dict[str, Any] = response.json()
    validate("action-status", document)
    return document


def status(http: httpx.Client, action: dict[str, Any]) -> dict[str, Any]:
    return checked(http.get(f"{BASE}/{action['action_id']}/status"))


def ended(http: httpx.Client, action: dict[str, Any]) -> dict[str, Any]:
    def end() -> dict[str, Any] | None:
        try:
            document = status(http, action)
        except httpx.TransportError:
            return None
        return None if document["status"] == "ACTIVE" else document

    found = eventually(end, 20, "the action ended")
    assert found is not None
    return found


def test_a_workflow_step_from_introspection_to_release(tmp_path: Path) -> None:
    with headrace_up(tmp_path / "home", "--workers", "2") as up, client(up) as http:
        # The engine reads what the provider wants, without a token.
        description = httpx.get(up.url + BASE, trust_env=False, verify=NO_TLS, timeout=20).json()
        validate("provider-description", description)

        # A step runs, and a quick one comes back finished: the workflow need not poll.
        function = register(http, STATISTICS, "statistics")
        steps: list[dict[str, Any]] = []

        def quick() -> dict[str, Any] | None:
            steps.append(request(up, {"function_id": function, "args": [[1, 2, 3, 6]]}))
            document = checked(http.post(f"{BASE}/run", json=steps[-1]), 202)
            return None if document["status"] == "ACTIVE" else document

        action, step = eventually(quick, 20, "one comes back finished"), steps[-1]
        assert action is not None
        assert action["status"] == "SUCCEEDED"
        assert action["details"]["results"][0]["output"] == {"mean": 3.0, "min": 1, "max": 6}

        # A repeated request is the same action, another one under its id is a conflict.
        assert checked(http.post(f"{BASE}/run", json=step)) == action
        other = {**step, "body": {**step["body"], "tasks": [{"function_id": function, "args": [[1]]}]}}
        assert http.post(f"{BASE}/run", json=other).status_code == 409

        # Released, it is forgotten, and its request id is free.
        assert checked(http.post(f"{BASE}/{action['action_id']}/release")) == action
        assert http.get(f"{BASE}/{action['action_id']}/status").status_code == 404
        assert checked(http.post(f"{BASE}/run", json=step), 202)["action_id"] != action["action_id"]


def test_actions_survive_the_death_of_the_service_of_everything_and_a_restart(tmp_path: Path) -> None:
    home, notes, passed, gate = tmp_path / "home", tmp_path / "notes", tmp_path / "passed", tmp_path / "gate"
    source = (
        "def gated(gate, path):\n    import os, time\n    while not os.path.exists(gate):\n"
        "        time.sleep(0.01)  # until the test opens the gate\n"
        "    with open(path, 'a') as file:\n        file.write('x')\n    return 'through'\n"
    )
    with headrace_up(home, "--workers", "1") as up, client(up) as http:
        append = register(http, APPEND, "append")
        done = request(up, {"function_id": append, "args": [str(notes), "x"]}, request_id="done")
        first = ended(http, checked(http.post(f"{BASE}/run", json=done), 202))
        assert first["details"]["result"] == ["x"]

        # The service dies without a word and is started again; the action is what it was.
        os.kill(up.pid_of("headrace.cli.main serve"), signal.SIGKILL)
        assert ended(http, first) == first
        assert checked(http.post(f"{BASE}/run", json=done)) == first

        # Everything dies while an action runs, and is started again.
        gated = register(http, source, "gated")
        step = request(up, {"function_id": gated, "args": [str(gate), str(passed)]}, request_id="gated")
        action = checked(http.post(f"{BASE}/run", json=step), 202)
        assert action["status"] == "ACTIVE"
        for pid in up.pids():
            with contextlib.suppress(ProcessLookupError):  # A child ends by itself when its parent was killed first.
                os.kill(pid, signal.SIGKILL)

        gate.touch()

        # The client repeats its request, as Flows would.
        assert ended(http, action)["details"]["result"] == ["through"]
        assert checked(http.post(f"{BASE}/run", json=step))["action_id"] == action["action_id"]

    with headrace_up(home, "--workers", "1") as up, client(up) as http:
        assert status(http, first) == first
        assert checked(http.post(f"{BASE}/run", json=done)) == first
        last = request(up, {"function_id": append, "args": [str(notes), "."]})
        ended(http, checked(http.post(f"{BASE}/run", json=last), 202))

    assert notes.read_text() == "x."
    assert passed.read_text() == "x"
