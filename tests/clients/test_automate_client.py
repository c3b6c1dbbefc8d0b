"""The public client of action providers, unmodified, against a real service. `make test-clients` makes its environment.

What it sends is kept in `tests/fixtures/clients`, and sent again in `make test`, which needs no such environment; here
it is compared with what it sends now.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from described import check_document
from running_pool import RunningPool, running_pool
from service import RunningService, running_service

from headrace.action_provider.errors import ConsentRequired

HERE = Path(__file__).parent
PREPARED = Path(os.environ.get("CLIENT_TESTS", HERE.parents[1] / ".client-tests")).absolute()
RECORDED = HERE.parent / "fixtures" / "clients" / "globus-automate-client-0.18.0.json"
BASE = "/actions/compute/v3"

NAP = "def nap(x):\n    import time\n    time.sleep(x)\n    return x\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="module")
def pool(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    with running_pool(service, tmp_path_factory.mktemp("pool")) as running:
        yield running


@pytest.fixture(scope="module")
def function_id(service: RunningService) -> str:
    return service.add_function(NAP, "nap", entry_point="nap")


@pytest.fixture(scope="module")
def calls(service: RunningService, pool: RunningPool, function_id: str) -> dict[str, Any]:
    """What each call of the client gave, and sent."""
    body, slow = ({"endpoint_id": pool.endpoint_id, "tasks": [task(function_id, x)]} for x in (0.01, 60))
    said = client("call_actions.py", service.url + BASE, service.token, json.dumps(body), json.dumps(slow))
    return dict(json.loads(said))


def task(function_id: str, x: float) -> dict[str, Any]:
    return {"function_id": function_id, "kwargs": {"x": x}}


def client(script: str, *arguments: str) -> str:
    """What a script says that runs in the client's environment."""
    python = PREPARED / "bin" / "python"
    assert python.exists(), f"{python} is not there: run `make test-clients`"
    done = subprocess.run(
        [str(python), str(HERE / script), *arguments], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("call", "status", "state"),
    [
        ("run", 202, "SUCCEEDED"),
        ("run again", 200, "SUCCEEDED"),
        ("run under other names", 202, "SUCCEEDED"),
        ("run by the other route", 202, "SUCCEEDED"),
        ("status", 200, "SUCCEEDED"),
        ("resume", 200, "SUCCEEDED"),
        ("cancel", 200, "SUCCEEDED"),
        ("release", 200, "SUCCEEDED"),
        ("run slowly", 202, "ACTIVE"),
        ("cancel what goes on", 200, "FAILED"),
        ("release what was cancelled", 200, "FAILED"),
    ],
)
def test_the_client_gets_the_status_that_it_expects(calls: dict[str, Any], call: str, status: int, state: str) -> None:
    answer = calls[call]

    assert answer["status"] == status
    assert check_document(answer["data"]) == "action-status"
    assert answer["data"]["status"] == state


@pytest.mark.parametrize(
    ("call", "status", "code"),
    [
        ("run otherwise", 409, "ActionConflict"),
        ("run with a bad body", 422, "RequestValidationError"),
        ("status of nothing", 404, "ActionNotFound"),
        ("status with a slash", 404, "ActionNotFound"),
        ("release at once", 409, "ActionConflict"),
        ("run for a stranger", 401, "UnauthorizedRequest"),
    ],
)
def test_the_client_understands_the_refusal(calls: dict[str, Any], call: str, status: int, code: str) -> None:
    assert (calls[call]["status"], calls[call]["code"]) == (status, code)


def test_the_client_finds_the_scope_and_reads_the_log(calls: dict[str, Any]) -> None:
    assert calls["scope"] == calls["introspect"]["data"]["globus_auth_scope"]
    entries = calls["log by size"]["data"]["entries"]
    assert len(entries) == 3
    assert calls["log"]["data"]["entries"] == entries[:2]
    assert calls["log on"]["data"]["entries"][0] == entries[2]
    assert calls["log back"]["data"]["entries"][0]["code"] == "ActionSucceeded"


def test_what_it_sends_is_what_is_kept(calls: dict[str, Any], pool: RunningPool, function_id: str) -> None:
    sent = json.dumps([{"call": name, "sent": calls[name]["requests"]} for name in calls if name != "scope"])
    ids = {
        calls["run"]["data"]["action_id"]: "ACTION",
        calls["run slowly"]["data"]["action_id"]: "SLOW",
        pool.endpoint_id: "ENDPOINT",
        function_id: "FUNCTION",
    }
    for value, name in ids.items():
        sent = sent.replace(value, name)
    # It makes up request ids where it is given none; their lengths do not change.
    sent = re.sub(r'(\\"request_id\\": \\")[0-9a-f-]{36}\\"', r'\1REQUEST\\"', sent)
    lines = json.dumps(json.loads(sent), indent=1) + "\n"
    if os.environ.get("RECORD"):
        RECORDED.write_text(lines)

    assert json.loads(lines) == json.loads(RECORDED.read_text())


def test_the_older_sdk_reads_what_an_inactive_action_asks_for() -> None:
    needed = ConsentRequired("agree to it", required_scope="https://auth.globus.org/scopes/1/action_all[dependent]")

    said = json.loads(client("call_actions.py", "consent", json.dumps(needed.action_details)))

    assert said["authorization_parameters"]["required_scopes"] == [needed.required_scope]


def test_the_command_line_client_works(
    service: RunningService, pool: RunningPool, function_id: str, calls: dict[str, Any], tmp_path: Path
) -> None:
    known: dict[str, Any] = {
        "access_token": service.token,
        "refresh_token": None,
        "expiration_time": None,
        "dependent_scopes": [],
    }
    (tmp_path / ".globus_automate_tokens.json").write_text(json.dumps({calls["scope"]: known}))

    def command(*arguments: str) -> dict[str, Any]:
        program = [str(PREPARED / "bin" / "globus-automate"), "action", *arguments, "--format", "json"]
        where = ["--action-url", service.url + BASE]
        environment = {**os.environ, "HOME": str(tmp_path), "COLUMNS": "10000"}
        done = subprocess.run(program + where, env=environment, capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    body = {"endpoint_id": pool.endpoint_id, "tasks": [task(function_id, 0.01)]}
    assert command("introspect")["title"] == "Headrace Compute"
    action = command("run", "--body", json.dumps(body), "--label", "from the shell")
    assert action["label"] == "from the shell"
    assert command("status", action["action_id"]) == action
    assert command("resume", action["action_id"]) == action
    assert command("cancel", action["action_id"]) == action
    assert command("release", action["action_id"]) == action
