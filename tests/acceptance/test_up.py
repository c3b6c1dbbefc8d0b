"""`headrace up`: everything in one command, and nothing left when it goes. All with real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from headrace_up import Up, command, command_line, headrace_up, is_alive
from plain_http import NO_TLS
from waiting import eventually

from headrace.sdk import Client, Executor

PARTS = {"nats": "nats-server", "service": "headrace.cli.main serve", "endpoint": "headrace.cli.main endpoint start"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One system for the tests after which it is as it was."""
    with headrace_up(tmp_path_factory.mktemp("up") / "home", "--workers", "1") as up:
        yield up


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_the_ready_file_says_where_everything_is_and_only_to_its_owner(shared: Up) -> None:
    assert set(shared.ready) == {"url", "token", "nats_url", "endpoint_id", "home", "pid"}
    assert shared.ready["pid"] == shared.process.pid
    assert shared.ready["home"] == str(shared.home)
    assert stat.S_IMODE(shared.ready_file.stat().st_mode) == 0o600
    status = get(shared, f"/api/v1/endpoints/{shared.endpoint_id}/status")
    assert status.json()["status"] == "online"
    assert httpx.get(f"{shared.url}/readyz", verify=NO_TLS, timeout=20).status_code == 200


def test_it_tells_a_person_what_to_do_next(shared: Up) -> None:
    # Programs are told first.
    eventually(lambda: "Ctrl-C stops everything" in shared.said())
    said = shared.said()
    assert "Headrace is up after" in said
    assert shared.url in said
    assert shared.endpoint_id in said
    assert f"export HEADRACE_HOME={shared.home}" in said
    assert shared.token not in said


def test_secrets_lie_in_private_files_and_never_in_a_command_line(shared: Up) -> None:
    private = ["admin.token", "profile.json", "keys/operator.json", "keys/service.json", "keys/master.key"]
    assert {stat.S_IMODE((shared.home / name).stat().st_mode) for name in private} == {0o600}
    assert stat.S_IMODE(shared.home.stat().st_mode) == 0o700
    for pid in [shared.process.pid, *shared.pids()]:
        environment = Path(f"/proc/{pid}/environ").read_text()
        assert shared.token not in command_line(pid) + environment


def test_the_profile_leads_the_sdk_here(shared: Up) -> None:
    profile = json.loads((shared.home / "profile.json").read_text())

    assert profile == {"url": shared.url, "token": shared.token}


def test_a_second_one_on_the_same_home_is_refused_and_told_who_has_it(shared: Up) -> None:
    second = subprocess.run(command(shared.home), capture_output=True, text=True, timeout=20, check=False)

    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert f"is running already as process {shared.process.pid}" in second.stderr
    assert shared.url in second.stderr
    assert httpx.get(f"{shared.url}/readyz", verify=NO_TLS, timeout=20).status_code == 200


def test_a_signal_stops_everything_and_started_again_it_has_what_it_had(home: Path) -> None:
    with headrace_up(home, "--workers", "1") as first:
        function = {"name": "double", "source": "def double(x):\n    return 2 * x\n", "python_version": "3.11"}
        function_id = post(first, "/api/v1/functions", function)["function_id"]
        stopped(first, signal.SIGTERM, 0)

    # Nobody runs it yet: what is queued must outlive the next stop as well.
    with headrace_up(home, "--no-endpoint") as second:
        where = f"/api/v1/endpoints/{first.endpoint_id}/tasks"
        task_id = post(second, where, {"function_id": function_id, "args": [21]})["tasks"][0]["task_id"]
        assert get(second, f"/api/v1/tasks/{task_id}").json()["state"] == "pending"
        stopped(second, signal.SIGINT, 130)

    with headrace_up(home, "--workers", "1") as third:
        same = ("url", "nats_url", "token", "endpoint_id", "home")
        assert {name: third.ready[name] for name in same} == {name: first.ready[name] for name in same}
        task = get(third, f"/api/v1/tasks/{task_id}?wait=10s").json()
        assert (task["state"], task["result"]) == ("succeeded", 42)


def stopped(up: Up, number: signal.Signals, status: int) -> None:
    """Stop it with this signal, in order and with nothing left."""
    pids = up.pids()
    assert len(pids) >= 2
    (up.home / "nats" / "nats.log").write_bytes(b"")  # of the starts before

    assert up.stop(number) == status

    assert ended_in_order(up.home)
    assert [command_line(pid) for pid in pids if is_alive(pid)] == []
    assert not up.ready_file.exists()


def test_a_part_that_hangs_does_not_hold_up_the_end(home: Path) -> None:
    with headrace_up(home, "--workers", "1") as up:
        pids = up.pids()
        for part in PARTS.values():
            os.kill(up.pid_of(part), signal.SIGSTOP)

        # Nobody wakes them: it ends only because it does not wait for them.
        assert up.stop(within_s=45) == 0

        assert up.said().rstrip().endswith("Stopped.")
        assert not ended_in_order(home)
        eventually(lambda: not any(map(is_alive, pids)), message="all processes have ended")


def test_a_second_signal_ends_it_at_once(home: Path) -> None:
    with headrace_up(home, "--workers", "1") as up:
        pids = up.pids()
        os.kill(up.pid_of(PARTS["endpoint"]), signal.SIGSTOP)
        up.process.terminate()
        eventually(lambda: "once more to stop at once" in up.said())

        up.stop()

        # With patience it would have killed the endpoint in the end, and then stopped the others in order.
        assert not ended_in_order(home)
        eventually(lambda: not any(map(is_alive, pids)), message="all processes have ended")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends children with their parent")
def test_nothing_outlives_it_when_it_is_killed_and_it_starts_again_at_once(home: Path) -> None:
    with headrace_up(home, "--workers", "2") as up:
        pids = up.pids()
        assert len(pids) >= 3

        up.process.kill()
        up.process.wait()

        with headrace_up(home, "--workers", "1") as again:
            assert again.endpoint_id == up.endpoint_id
            eventually(lambda: not any(map(is_alive, pids)), within_s=3, message="all processes have ended")


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_dies_is_started_again_while_the_others_carry_on(shared: Up, part: str) -> None:
    up = shared
    with Client(up.url, up.token) as client, Executor(client=client) as executor:
        assert executor.submit(pow, 2, 10).result(20) == 1024
        before = {name: up.pid_of(words) for name, words in PARTS.items()}

        os.kill(before[part], signal.SIGKILL)

        assert executor.submit(pow, 2, 5).result(30) == 32
        eventually(lambda: f"{part} answers again" in up.said(), within_s=15)
        after = {name: up.pid_of(words) for name, words in PARTS.items()}
        assert {name for name in PARTS if after[name] != before[name]} == {part}
        assert f"{part} ended (killed by signal 9); starting it again in 0.1 s" in up.said()
        eventually(lambda: httpx.get(f"{up.url}/readyz", verify=NO_TLS, timeout=20).status_code == 200)
        eventually(
            lambda: get(up, f"/api/v1/endpoints/{up.endpoint_id}/status").json()["status"] == "online", within_s=15
        )


def test_it_says_what_is_missing_open_or_damaged(home: Path) -> None:
    with headrace_up(home, "--no-endpoint", "--host", "0.0.0.0") as up:  # noqa: S104 - that is the point
        assert up.ready["endpoint_id"] is None
        assert get(up, "/api/v1/endpoints").json() == {"endpoints": []}
        assert not [pid for pid in up.pids() if PARTS["endpoint"] in command_line(pid)]
        assert "warning: listening on 0.0.0.0 without TLS" in up.said()
        assert up.url.startswith("http://127.0.0.1:")

    keys = home / "keys"
    (keys / "operator.json").chmod(0o640)
    assert f"{keys}/operator.json is open to other users (mode 0640); run: chmod 600" in refused(home)

    # A part that ends at its first start is named, with the end of its log.
    (keys / "operator.json").chmod(0o600)
    (keys / "master.key").write_bytes(b"short")
    message = refused(home, "--no-endpoint")
    assert f"the service ended at its start (status 1); its log is {home}/logs/service.log" in message
    assert "master.key is damaged" in message


@pytest.mark.parametrize("option", ["--port", "--nats-port"])
def test_a_port_in_use_is_named_with_the_remedy(home: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        message = refused(home, option, str(port))

    assert message.startswith(f"headrace: port {port} on 127.0.0.1 is in use")
    assert f"choose another with {option} (0 takes a free one)" in message


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    message = refused(tmp_path / "file" / "home")

    assert f"the home {tmp_path}/file/home cannot be written: Not a directory; give --home" in message


def test_a_ready_file_that_cannot_be_written_is_named(home: Path, tmp_path: Path) -> None:
    message = refused(home, "--no-endpoint", "--ready-file", str(tmp_path / "missing" / "ready"))

    assert f"--ready-file {tmp_path}/missing/ready cannot be written: No such file or directory" in message


def test_a_nats_server_that_is_too_old_is_refused(home: Path, tmp_path: Path) -> None:
    old = tmp_path / "old-nats-server"
    old.write_text("#!/bin/sh\necho 'nats-server: v2.10.4'\n")
    old.chmod(0o755)

    message = refused(home, "--nats-server", str(old))

    assert f"{old} is NATS server 2.10.4; Headrace needs 2.12 or newer" in message


def refused(home: Path, *options: str) -> str:
    """Start it where it cannot: it must end soon with status 1, one message, no traceback and no process."""
    process = subprocess.run(command(home, *options), capture_output=True, text=True, timeout=30, check=False)
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr
    left = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if str(home) in command_line(pid)]
    assert [command_line(pid) for pid in left] == []
    # Log lines carry the time; the message is what is said last, by name.
    return "headrace: " + process.stderr.rpartition("\nheadrace: ")[2].removeprefix("headrace: ")


def ended_in_order(home: Path) -> bool:
    """Whether the NATS server, the last part to be stopped, was asked to stop and said so; what is killed cannot."""
    return "Initiating Shutdown" in (home / "nats" / "nats.log").read_text()


def get(up: Up, path: str) -> httpx.Response:
    return httpx.get(f"{up.url}{path}", headers=bearer(up), timeout=15, verify=NO_TLS)


def post(up: Up, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(f"{up.url}{path}", json=body, headers=bearer(up), timeout=10, verify=NO_TLS)
    assert answer.is_success, answer.text
    document: dict[str, Any] = answer.json()
    return document


def bearer(up: Up) -> dict[str, str]:
    return {"Authorization": f"Bearer {up.token}"}
