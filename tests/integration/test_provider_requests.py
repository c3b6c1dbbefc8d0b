"""One request, one action: whatever is repeated, however often, wherever, and whoever dies in between."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from flow_client import BASE, NOTE, SQUARE, Flows, checked, task
from gateways import Gateway
from plain_http import NO_TLS
from running_pool import RunningPool
from service import RunningService, serving
from waiting import eventually

SERVICE = """
import sys
from pathlib import Path
from headrace.action_provider import ServiceSettings, serve
serve(ServiceSettings(home=Path(sys.argv[1]), keys_dir=Path(sys.argv[2]), nats_url=sys.argv[3]))
"""


@pytest.fixture
def flows(service: RunningService, pool: RunningPool) -> Flows:
    return Flows(service.http(), pool.endpoint_id)


@pytest.fixture
def replica(service: RunningService) -> Iterator[httpx.Client]:
    """A client of another service on the same bus."""
    headers = {"Authorization": f"Bearer {service.token}"}
    with (
        serving(service.loop, service.settings) as url,
        httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=20, verify=NO_TLS) as http,
    ):
        yield http


@contextlib.contextmanager
def service_process(
    service: RunningService, nats_url: str, home: Path
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A service as a process that finds the bus at this address: where it answers, and the process."""
    home.mkdir()
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(home), str(service.keys_dir), nats_url], stdout=log, stderr=log
        )
    try:
        eventually((home / "serving.json").exists, 20, "the service answers")
        yield json.loads((home / "serving.json").read_text())["url"], process
    finally:
        process.kill()
        process.wait()


def test_fifty_equal_requests_at_once_have_one_effect(service: RunningService, flows: Flows, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    note = task(service, NOTE, "note", str(path), "x")

    with ThreadPoolExecutor(25) as threads:
        answers = list(threads.map(lambda _: flows.run(note, request_id="fifty"), range(50)))

    documents = [checked(answer, 200, 202) for answer in answers]
    assert [answer.status_code for answer in answers].count(202) == 1
    assert len({document["action_id"] for document in documents}) == 1
    assert flows.ended(documents[0])["details"]["result"] == ["x"]
    # A task behind it in the same queue: whatever was submitted twice would have run by its end.
    flows.ended(checked(flows.run(task(service, NOTE, "note", str(path), ".")), 202))
    assert path.read_text() == "x."


def test_a_repeated_request_finishes_what_a_crash_left_undone(
    service: RunningService, late: RunningPool, tmp_path: Path
) -> None:
    path = tmp_path / "notes"
    flows = Flows(service.http(), late.endpoint_id)
    note = task(service, NOTE, "note", str(path), "x")
    action = checked(flows.run(note, request_id="crashed"), 202)
    # What a service leaves that dies between the record and the submission: an action without its tasks.
    service.bus(lambda connection: connection.api("STREAM.PURGE.TASKS", {"filter": f"task.{sleeping(flows)}.>"}))
    late.start()

    again = checked(flows.run(note, request_id="crashed"), 200)

    assert again["action_id"] == action["action_id"]
    assert flows.ended(action)["details"]["result"] == ["x"]
    assert path.read_text() == "x"


def sleeping(flows: Flows) -> str:
    return uuid.UUID(flows.endpoint_id).hex


def test_a_request_is_repeated_even_when_its_function_has_gone(service: RunningService, flows: Flows) -> None:
    square = task(service, SQUARE, "square", 6)
    action = flows.ended(checked(flows.run(square, request_id="gone"), 202))
    assert flows.http.delete(f"/api/v1/functions/{square['function_id']}").is_success

    assert checked(flows.run(square, request_id="gone"), 200) == action
    assert flows.run(square, request_id="gone", label="other").status_code == 400
    assert flows.run(square, request_id="new").status_code == 400


def test_another_replica_knows_the_action(service: RunningService, flows: Flows, replica: httpx.Client) -> None:
    square = task(service, SQUARE, "square", 9)
    action = flows.ended(checked(flows.run(square, request_id="replica"), 202))

    elsewhere = Flows(replica, flows.endpoint_id)
    assert elsewhere.status(action) == action
    assert checked(elsewhere.run(square, request_id="replica"), 200) == action


def test_fifty_equal_requests_at_once_at_two_replicas_have_one_effect(
    service: RunningService, flows: Flows, replica: httpx.Client, tmp_path: Path
) -> None:
    path = tmp_path / "notes"
    note = task(service, NOTE, "note", str(path), "x")
    clients = [flows, Flows(replica, flows.endpoint_id)]

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda n: clients[n % 2].run(note, request_id="both"), range(50)))

    documents = [checked(answer, 200, 202) for answer in answers]
    assert [answer.status_code for answer in answers].count(202) == 1
    assert len({document["action_id"] for document in documents}) == 1
    assert flows.ended(documents[0])["details"]["result"] == ["x"]
    flows.ended(checked(flows.run(task(service, NOTE, "note", str(path), ".")), 202))
    assert path.read_text() == "x."


@pytest.mark.parametrize(
    ("killed_at", "ran"),
    [
        pytest.param(b"PUB task.", 0, id="between the record and the tasks"),
        pytest.param(b'"SUCCEEDED"', 3, id="between the end that is shown and that which is written"),
    ],
)
def test_a_service_that_is_killed_leaves_an_action_that_a_repetition_completes_once(
    service: RunningService, flows: Flows, tmp_path: Path, killed_at: bytes, ran: int
) -> None:
    path = tmp_path / "notes"
    note = task(service, NOTE, "note", str(path), "x")
    nats = httpx.URL(service.nats.url)
    request = {"request_id": uuid.uuid4().hex, "body": {"endpoint_id": flows.endpoint_id, "tasks": [note] * 3}}
    answers: list[httpx.Response] = []

    def run(url: str) -> None:
        with contextlib.suppress(httpx.HTTPError):
            answers.append(flows.http.post(f"{url}{BASE}/run", json=request))

    with (
        Gateway(target=(nats.host, nats.port or 0), hold_at=killed_at) as gate,
        service_process(service, f"nats://127.0.0.1:{gate.port}", tmp_path / "doomed") as (url, process),
    ):
        caller = threading.Thread(target=run, args=(url,))
        caller.start()
        assert gate.held.wait(20), "the service came so far"
        process.kill()
        process.wait()
        caller.join(20)
    shown = [checked(answer, 202) for answer in answers]
    assert [each["status"] for each in shown] == (["SUCCEEDED"] if ran else [])
    assert (path.read_text() if path.exists() else "") == "x" * ran

    first, second = (
        checked(flows.http.post(f"{BASE}/run", json=request)),
        checked(flows.http.post(f"{BASE}/run", json=request)),
    )

    assert first["action_id"] == second["action_id"]
    assert all(each == first == second for each in shown), "the end that was shown stays"
    assert flows.ended(first)["details"]["result"] == ["x"] * 3
    flows.ended(checked(flows.run(task(service, NOTE, "note", str(path), ".")), 202))
    assert path.read_text() == "xxx."
    assert flows.http.post(f"{BASE}/run", json={**request, "label": "other"}).status_code == 409
    checked(flows.http.post(f"{BASE}/{first['action_id']}/release"))
    assert checked(flows.http.post(f"{BASE}/run", json=request), 202)["action_id"] != first["action_id"]
