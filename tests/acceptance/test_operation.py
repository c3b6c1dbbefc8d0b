"""What administrators of endpoints type: is all well, and what is going on."""

from __future__ import annotations

import re
import socket
import uuid
from pathlib import Path

import pytest
from headrace_up import Up
from scripted_http import scripted_server
from shell import Shell
from waiting import eventually

from headrace.bus.log_files import LONGEST_LOG_BYTES
from headrace.endpoint.directory import Endpoints
from headrace.sdk.client import Client
from headrace.sdk.errors import PoolFailed
from headrace.sdk.executor import Executor

# The doctor


def test_the_doctor_finds_no_problem_where_all_is_well_and_leaves_nothing_behind(shell: Shell, up: Up) -> None:
    said = shell("doctor", "--json").json()

    states = {(each["endpoint"], each["check"]): each["state"] for each in said["findings"]}
    assert said["ok"] is True
    assert {states["default", check] for check in ("configuration", "manager", "online", "bus", "task")} == {"ok"}
    assert {states[None, check] for check in ("home", "secrets", "service", "release", "clock", "token")} == {"ok"}
    (task,) = (each["said"] for each in said["findings"] if each["check"] == "task")
    assert "a sample task ran on " in task
    with Client(up.url, up.token) as client:
        assert "headrace_doctor" not in {each["name"] for each in client.list_functions()}
    assert "No problem found." in shell("doctor", up.endpoint_id, "--no-task").out


def test_the_doctor_says_what_to_do_about_an_endpoint_that_does_not_run(up: Up) -> None:
    shell = Shell(up.home)
    shell("endpoint", "configure", "idle")
    (up.home / "endpoints" / "idle" / "config.yaml").write_text("wokers: 2\n")

    said = shell("doctor", "idle", status=1)

    assert "idle: configuration" in said.out
    assert "did you mean 'workers'?" in said.out
    assert "-> run `headrace endpoint start idle`" in said.out
    assert "2 problems found." in said.out
    shell("endpoint", "delete", "idle", "--yes")


def test_the_doctor_tells_a_service_that_is_away_from_something_else_that_answers(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    with scripted_server((200, {"hello": "world"})) as server:
        (tmp_path / "profile.json").write_text(f'{{"url": "{server.url}", "token": "hr_x_y"}}')
        assert "not as a Headrace service" in shell("doctor", status=1).out
    assert "does not answer" in shell("doctor", status=1).out
    (tmp_path / "profile.json").unlink()
    assert "no service is configured" in shell("doctor", status=1).out


def test_the_doctor_names_a_token_that_is_not_accepted(up: Up, tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text(f'{{"url": "{up.url}", "token": "hr_0123456789abcdef_wrong"}}')
    (tmp_path / "profile.json").chmod(0o600)

    said = {each["check"]: each for each in Shell(tmp_path)("doctor", "--json", status=1).json()["findings"]}

    assert said["token"]["state"] == "problem"
    assert f"headrace login --url {up.url}" in said["token"]["advice"]
    assert said["service"]["state"] == said["clock"]["state"] == "ok"


# Status and pools


def test_the_status_of_an_endpoint_says_how_it_is_by_its_exit_status(shell: Shell, up: Up) -> None:
    said = shell("endpoint", "status").out
    assert f"machine:     {socket.gethostname()}: Headrace " in said
    assert re.search(r"1 workers, [01] busy, [01] idle, \d tasks waiting here, \d+ MiB\n", said)
    shell("endpoint", "configure", "idle")
    assert "not registered yet" in shell("endpoint", "status", "idle", status=3).out
    assert shell("endpoint", "status", "idle", "--json", status=3).json()["state"] == "stopped"
    # It runs, but the service that it was registered at is gone.
    directory = Endpoints(up.home).get("idle")
    directory.keep_registration(uuid.uuid4(), "hr_0123456789abcdef_gone", up.url)
    with directory.locked():
        assert "service:     " in shell("endpoint", "status", "idle", status=4).out
    assert shell("endpoint", "pools", "idle", status=1).err
    shell("endpoint", "delete", "idle", "--yes", "--local")


def test_the_pools_of_an_endpoint_are_listed_with_those_that_cannot_be_had(shell: Shell, up: Up) -> None:
    def pools() -> list[tuple[str, int, int]]:
        return [(each["pool"], each["workers"], each["busy"]) for each in shell("endpoint", "pools", "--json").json()]

    # What ran a moment ago may be shown until its machine gives the next sign.
    eventually(lambda: pools() == [("default", 1, 0)], 10, "the pool is idle")
    heading, row = shell("endpoint", "pools").out.splitlines()
    assert heading.split() == ["POOL", "OF", "HOST", "STATE", "WORKERS", "IDLE", "QUEUED", "MEMORY", "SINCE", "PROBLEM"]
    assert row.split()[:3] == ["default", "-", socket.gethostname()]
    with (
        Client(up.url, up.token) as client,
        Executor(up.endpoint_id, client, user_endpoint_config={"knots": 1}) as executor,
        pytest.raises(PoolFailed, match="knots"),
    ):
        executor.submit(abs, -1).result(20)
    failed = next(line for line in shell("endpoint", "pools").out.splitlines() if " failed " in line)
    assert re.search(r" 20\d\d-\S+Z +.*knots", failed)
    assert re.search(r": failed since 20\d\d-\S+Z \(.*knots", shell("endpoint", "status").out)


# Tasks


def test_the_tasks_at_an_endpoint_are_listed_and_killed_whoever_waits_for_them(shell: Shell, up: Up) -> None:
    source = "import time\ndef linger(mark):\n    open(mark, 'w').close()\n    time.sleep(300)  # until it is stopped\n"
    mark = up.home / "it-runs"
    with Client(up.url, up.token) as client:
        function_id = client.register_source_code(source, "linger")
        running = client.run(str(mark), endpoint_id=up.endpoint_id, function_id=function_id)
        eventually(lambda: client.get_task(running)["state"] == "running", 10)
        waiting = client.run(str(mark), endpoint_id=up.endpoint_id, function_id=function_id)

        assert {task["task_id"] for task in shell("endpoint", "tasks", "--json").json()} == {running, waiting}
        assert "urn:headrace:user:admin" in shell("endpoint", "tasks").out
        assert "say which tasks" in shell("endpoint", "kill", status=2).err
        assert "add --yes" in shell("endpoint", "kill", "--all", status=1).err
        assert "Cancelled 1 tasks" in shell("endpoint", "kill", "--task", waiting).out
        assert "Asked to stop 1 that run." in shell("endpoint", "kill", "default", "--all", "--yes").out
        states = {client.get_task(task, wait_s=30)["state"] for task in (running, waiting)}

    assert states == {"cancelled"}
    assert shell("endpoint", "tasks", "--json").json() == []


# Logs


def test_long_logs_are_begun_anew_while_the_system_runs(up: Up) -> None:
    logs = [up.home / "logs" / "service.log", up.home / "nats" / "nats.log", Endpoints(up.home).get("default").log_file]
    for log in logs:
        with log.open("ab") as file:
            file.write(b"." * (LONGEST_LOG_BYTES + 1))

    eventually(lambda: all(log.stat().st_size < LONGEST_LOG_BYTES for log in logs), 20)

    assert all(log.with_name(f"{log.name}.1").stat().st_size > LONGEST_LOG_BYTES for log in logs)
