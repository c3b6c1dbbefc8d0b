"""Functions that need packages, through every door, at an endpoint that installs them."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from headrace_up import Up
from plain_http import NO_TLS
from waiting import eventually
from wheels import make_wheel

from headrace.endpoint.directory import Endpoints
from headrace.sdk import Client, EnvironmentUnusable, Executor, RequestRefused, RequirementsInvalid

SOURCE = '# /// script\n# dependencies = ["tide==2.0"]\n# ///\nimport tide\ndef level(x): return tide.LEVEL + x\n'


@pytest.fixture(scope="module")
def client(up: Up) -> Iterator[Client]:
    with Client(up.url, up.token) as made:
        yield made


@pytest.fixture(scope="module")
def endpoint(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("lab")
    wheels = home / "wheels"
    for version in ("1.0", "2.0"):
        make_wheel(wheels, "tide", version, f"LEVEL = {version[0]}\n")
    directory = Endpoints(home).create("lab")
    config = f"workers: 1\nenvironments:\n  packages: [tide, flood]\n  find_links: {wheels}\n"
    (directory.path / "config.yaml").write_text(config)
    token = home / "token"
    token.write_text(up.token)
    token.chmod(0o600)
    command = [sys.executable, "-m", "headrace.cli.main", "endpoint", "start", "lab", "--home", str(home)]
    with directory.log_file.open("ab") as log:
        process = subprocess.Popen(
            [*command, "--url", up.url, "--token-file", str(token)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")},
        )
    try:
        eventually(lambda: directory.pool_file("default", "status.json").exists() or process.poll() is not None, 20)
        assert process.poll() is None, directory.log_file.read_text()
        registration = directory.registration()
        assert registration is not None
        yield str(registration.endpoint_id)
    finally:
        process.terminate()
        process.wait(20)


def level(x: int) -> int:
    import tide  # type: ignore[import-not-found]  # it is where the function runs

    return int(tide.LEVEL + x)


def test_functions_have_the_packages_that_they_name(endpoint: str, client: Client, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("tide >= 2  # high\n")
    with Executor(endpoint, client=client) as executor, Executor(endpoint, client=client) as other:
        low = executor.register_function(level, requirements=["tide<2"])
        assert executor.submit(level, 10).result() == 11
        assert list(executor.map(level, [1, 2, 3], chunksize=2)) == [2, 3, 4]
        high = client.register_function(level, requirements=tmp_path / "requirements.txt")
        script = client.register_source_code(SOURCE, "level")

        assert other.submit_to_registered_function(high, (10,)).result() == 12
        assert other.submit_to_registered_function(script, (20,)).result() == 22
        assert other.submit_to_registered_function(low, (20,)).result() == 21
        with pytest.raises(ModuleNotFoundError):
            other.submit(level, 1).result()
    assert client.get_function(low)["requirements"] == ["tide<2"]


def test_tasks_over_http_and_actions_have_them_too(endpoint: str, client: Client, up: Up) -> None:
    low = client.register_function(level, requirements=["tide<2"])
    high = client.register_function(level, requirements=["tide>=2"])

    assert client.get_result(client.run(1, endpoint_id=endpoint, function_id=low), wait_s=30) == 2
    with httpx.Client(
        base_url=up.url, headers={"Authorization": f"Bearer {up.token}"}, verify=NO_TLS, timeout=20
    ) as http:
        # Of an action, each runs in the pool that has what it needs.
        tasks = [{"function_id": each, "args": [1]} for each in (high, low, high)]
        request = {"request_id": uuid.uuid4().hex, "body": {"endpoint_id": endpoint, "tasks": tasks}}
        action = http.post("/actions/compute/v3/run", json=request).json()["action_id"]

        def result() -> object:
            status = http.get(f"/actions/compute/v3/{action}/status").json()
            return None if status["status"] == "ACTIVE" else status["details"]

        assert "'result': [3, 2, 3]" in str(eventually(result, 30, "the action ended"))
        both = {"tasks": [{"function_id": low, "args": [1]}, {"function_id": high, "args": [1]}]}
        refused = http.post(f"/api/v1/endpoints/{endpoint}/tasks", json=both)
    assert (refused.status_code, "different packages" in refused.text) == (422, True)


def test_events_run_them_in_their_environment(endpoint: str, client: Client, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    source = "import tide\ndef note(path):\n    open(path, 'w').write(str(tide.LEVEL))\n"
    function = client.register_source_code(source, "note", requirements=["tide>=2"])
    client.create_subscription(
        {
            "filter": {"exact": {"type": "needs"}},
            "function_id": function,
            "endpoint_id": endpoint,
            "name": "needs",
            "input": {"args": [str(seen)]},
        }
    )

    client.publish({"type": "needs", "source": "/test", "id": "1"})

    eventually(lambda: seen.exists() and seen.read_text() == "2", 30, "the function had its packages")


def test_what_cannot_be_had_is_said_to_whoever_waits(endpoint: str, client: Client) -> None:
    with Executor(endpoint, client=client) as executor:
        executor.register_function(len, requirements=["numpy"])
        with pytest.raises(EnvironmentUnusable, match="does not install numpy"):
            executor.submit(len, "abc").result()
        executor.register_function(abs, requirements=["flood"])
        with pytest.raises(EnvironmentUnusable, match=r"cannot be made on this endpoint(.|\n)*flood"):
            executor.submit(abs, 1).result()
    with pytest.raises(RequirementsInvalid, match="no requirement"):
        client.register_function(len, requirements=["=="])
    with pytest.raises(RequestRefused, match="requirements"):
        client._http.request("POST", "functions", body={"name": "f", "source": "f = 1", "requirements": ["=="]})
