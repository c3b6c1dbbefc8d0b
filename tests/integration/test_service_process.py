"""The service as a process: how it says where it is, how it stops, and what it says when it cannot start."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from plain_http import NO_TLS
from service import RunningService, running_service
from waiting import eventually

from headrace.action_provider import ServiceSettings, ServiceUnusable, serve_async
from headrace.action_provider.app import check_server
from headrace.action_provider.server import bind
from headrace.bus.errors import KeysUnusable

PROGRAM = """
import logging, sys
from pathlib import Path
from headrace.action_provider import ServiceSettings, serve
logging.basicConfig(level=logging.INFO)
home = Path(sys.argv[1])
serve(ServiceSettings(home=home, keys_dir=Path(sys.argv[2]), nats_url=sys.argv[3], start_timeout_s=1.0))
"""


def start(service: RunningService, tmp_path: Path) -> subprocess.Popen[str]:
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    arguments = [sys.executable, "-c", PROGRAM, str(home), str(service.keys_dir), service.nats.url]
    with (tmp_path / "log").open("a") as log:
        return subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, text=True)


@pytest.fixture
def process(service: RunningService, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    started = start(service, tmp_path)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def address(tmp_path: Path) -> dict[str, object]:
    path = tmp_path / "home" / "serving.json"
    eventually(path.exists, 10)
    document: dict[str, object] = json.loads(path.read_text())
    return document


def test_it_says_where_it_answers_to_its_owner_only(process: subprocess.Popen[str], tmp_path: Path) -> None:
    found = address(tmp_path)
    assert found["pid"] == process.pid
    assert httpx.get(f"{found['url']}/readyz", trust_env=False, verify=NO_TLS, timeout=20).status_code == 200
    mode = stat.S_IMODE((tmp_path / "home" / "serving.json").stat().st_mode)
    assert mode == 0o600


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(process: subprocess.Popen[str], tmp_path: Path, number: signal.Signals) -> None:
    address(tmp_path)
    process.send_signal(number)
    assert process.wait(60) == 0, (tmp_path / "log").read_text()
    assert not (tmp_path / "home" / "serving.json").exists()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_who_waits_for_a_task_is_answered_when_it_stops(
    service: RunningService, process: subprocess.Popen[str], tmp_path: Path
) -> None:
    url = address(tmp_path)["url"]
    endpoint_id, _ = service.add_endpoint(uuid.uuid4().hex)
    body = {"function_id": service.add_function()}
    task_id = service.http().post(f"/api/v1/endpoints/{endpoint_id}/tasks", json=body).json()["tasks"][0]["task_id"]
    answers: list[httpx.Response] = []
    with httpx.Client(
        headers={"Authorization": f"Bearer {service.token}"}, trust_env=False, timeout=30, verify=NO_TLS
    ) as client:
        waiter = threading.Thread(
            target=lambda: answers.append(client.get(f"{url}/api/v1/tasks/{task_id}", params={"wait": "30s"}))
        )
        waiter.start()
        open_requests = f"{url}/metrics"
        eventually(
            lambda: (
                "headrace_http_open_requests 2.0"
                in httpx.get(open_requests, trust_env=False, verify=NO_TLS, timeout=20).text
            )
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0  # the request would wait for 30 s
        waiter.join(30)
    assert answers[0].json()["state"] == "pending"


def test_an_answer_leaves_in_one_piece(service: RunningService) -> None:
    address = httpx.URL(service.url)
    with socket.create_connection((address.host, address.port or 80), timeout=10) as line:
        for _ in range(20):
            line.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
            head, gap, body = line.recv(65_536).partition(b"\r\n\r\n")
            assert gap, "the whole head"
            assert f"content-length: {len(body)}".encode() in head.lower(), "and the whole body"


def test_a_second_replica_works_on_the_same_bus(
    service: RunningService, process: subprocess.Popen[str], tmp_path: Path
) -> None:
    url = str(address(tmp_path)["url"])
    token = service.add_user(f"u{uuid.uuid4().hex[:8]}")
    headers = {"Authorization": f"Bearer {token}"}
    assert (
        httpx.get(f"{url}/api/v1/whoami", headers=headers, trust_env=False, verify=NO_TLS, timeout=20).status_code
        == 200
    )


def test_a_killed_one_leaves_nothing_that_stops_the_next(
    service: RunningService, process: subprocess.Popen[str], tmp_path: Path
) -> None:
    address(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    successor = start(service, tmp_path)
    try:
        eventually(lambda: address(tmp_path)["pid"] == successor.pid, 10)
        successor.terminate()
        assert successor.wait(60) == 0
    finally:
        successor.kill()
        successor.wait()


def test_a_port_in_use_is_named_with_the_cure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceUnusable, match=f"127.0.0.1 port {port}: Address already in use.*--port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_a_host_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(ServiceUnusable, match=f"cannot listen on {host}"):
        bind(host, 0)


def test_an_absent_nats_is_named_with_the_cure(service: RunningService, tmp_path: Path) -> None:
    settings = ServiceSettings(
        home=tmp_path, keys_dir=service.keys_dir, nats_url="nats://127.0.0.1:1", start_timeout_s=0.2
    )
    with pytest.raises(ServiceUnusable, match=r"no NATS server answers at nats://127.0.0.1:1.*--nats-url"):
        service.loop.run(serve_async(settings))


def test_missing_keys_are_named(service: RunningService, tmp_path: Path) -> None:
    settings = ServiceSettings(home=tmp_path, keys_dir=tmp_path / "keys", nats_url=service.nats.url)
    with pytest.raises(KeysUnusable, match=r"service.json is missing"):
        service.loop.run(serve_async(settings))


def test_a_spoiled_administrators_token_is_named_with_the_cure(service: RunningService, tmp_path: Path) -> None:
    path = tmp_path / "admin.token"
    path.write_text("not a token")
    path.chmod(0o600)
    settings = ServiceSettings(home=tmp_path, keys_dir=service.keys_dir, nats_url=service.nats.url)
    with pytest.raises(ServiceUnusable, match=r"admin.token does not hold a token.*remove the file"):
        service.loop.run(serve_async(settings))
    path.chmod(0o644)
    with pytest.raises(KeysUnusable, match="open to other users"):
        service.loop.run(serve_async(settings))


@pytest.mark.parametrize("said", ["<nats server v2.11.9>", "1.4.1", "nonsense"])
def test_a_nats_server_that_is_too_old_is_named_with_the_cure(said: str) -> None:
    with pytest.raises(ServiceUnusable, match=r"needs 2\.12\.0 or newer.*--nats-url"):
        check_server(said)


def test_a_newer_nats_server_will_do() -> None:
    assert check_server("<nats server v2.15.1>") == "2.15.1"


def test_keys_of_another_installation_are_refused(service: RunningService, tmp_path: Path) -> None:
    with running_service(tmp_path / "other") as other:
        settings = ServiceSettings(
            home=tmp_path, keys_dir=other.keys_dir, nats_url=service.nats.url, start_timeout_s=0.2
        )
        with pytest.raises(Exception, match="credential"):
            service.loop.run(serve_async(settings))
