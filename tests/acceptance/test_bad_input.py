# ruff: noqa: E501 - names of tests are sentences, and the table keeps each on one line
"""Bad input, named: whatever a person gives that cannot work is told in words that help, and nothing else suffers.

Where each case is held to that (`here` is this module):

    unknown endpoint            integration/test_executor.py::test_an_unknown_endpoint_fails_the_future
                                integration/test_service_endpoints.py::test_an_unknown_endpoint_is_not_found
                                integration/test_provider_http.py::test_an_unknown_endpoint_or_function_starts_no_action
    unknown function            integration/test_executor.py::test_an_unknown_function_fails_its_future_and_the_executor_lives_on
                                integration/test_service_functions.py::test_an_unknown_function_is_not_found
                                integration/test_service_tasks.py::test_an_unknown_function_is_refused_before_anything_is_queued
                                integration/test_dispatcher.py::test_a_subscription_to_what_is_not_there_is_refused
    wrong token                 here::test_a_token_that_is_wrong_or_expired_fails_the_future_with_what_to_do
                                integration/test_service_errors.py::test_a_request_without_a_valid_token_is_told_what_is_wrong_and_how_to_ask
                                integration/test_manager.py::test_a_token_that_the_service_refuses_is_named
    expired token               here::test_a_token_that_is_wrong_or_expired_fails_the_future_with_what_to_do
                                integration/test_service_errors.py::test_an_expired_token_is_told_to_have_expired
    function without source     here::test_a_function_that_cannot_be_packed_fails_its_future
                                here::test_code_of_another_python_without_source_is_told_with_both_versions
                                unit/test_code.py::test_what_has_neither_source_nor_pickle_is_refused
    argument                    integration/test_executor.py::test_an_argument_that_cannot_be_sent_fails_its_future_at_once_and_the_executor_lives_on
                                integration/test_client.py::test_an_argument_that_json_cannot_carry_is_refused_before_anything_is_sent
    result                      integration/test_executor.py::test_a_result_that_cannot_be_sent_is_an_error_of_its_task
                                integration/test_service_tasks.py::test_a_value_that_json_cannot_carry_is_an_error_of_the_task
                                integration/test_provider_compute.py::test_a_result_that_json_cannot_carry_fails_with_what_to_do
    malformed JSON              integration/test_service_errors.py::test_a_body_that_is_not_strict_json_is_refused_with_the_place
    wrong types, extra fields   integration/test_service_errors.py::test_wrong_types_and_extra_fields_are_refused_with_json_pointers
                                integration/test_provider_http.py::test_a_bad_body_is_named_with_the_place
    a body of 100 MB            integration/test_service_errors.py::test_a_body_of_100_mb_is_refused_with_the_limit_and_not_kept
    invalid filter              here::test_an_invalid_filter_or_template_is_refused_with_place_and_problem
                                unit/test_filters.py::test_an_invalid_filter_is_refused_with_its_place
    invalid template            here::test_an_invalid_filter_or_template_is_refused_with_place_and_problem
                                unit/test_templates.py::test_what_cannot_be_compiled_is_refused_with_its_place
    port in use                 acceptance/test_up.py::test_a_port_in_use_is_named_with_the_remedy
                                integration/test_service_process.py::test_a_port_in_use_is_named_with_the_cure
                                integration/test_nats_server.py::test_a_port_in_use_is_named_with_the_remedy
    home not writable           acceptance/test_up.py::test_a_home_that_cannot_be_written_is_named
    NATS unreachable at start   integration/test_service_process.py::test_an_absent_nats_is_named_with_the_cure
    NATS lost later             here::test_while_nats_is_away_futures_wait_and_requests_are_answered
                                integration/test_service_bus_lost.py::test_a_lost_bus_is_told_in_bounded_time_and_work_goes_on_when_it_is_back
                                integration/test_provider_compute.py::test_while_the_bus_is_away_the_answer_is_to_try_again
    clock of the client         here::test_a_clients_clock_that_is_wrong_by_an_hour_does_not_matter
    clock of an endpoint        here::test_a_pools_clock_that_is_wrong_by_an_hour_does_not_matter
    clock of the service        here::test_a_services_clock_that_is_wrong_by_an_hour_is_named
    grant that has ended        here::test_a_client_that_goes_on_with_a_grant_that_has_ended_is_refused
    NATS server too old         acceptance/test_up.py::test_a_nats_server_that_is_too_old_is_refused
                                integration/test_nats_server.py::test_a_server_that_is_too_old_is_refused
                                here::test_a_service_on_an_old_nats_server_ends_with_one_line_that_names_it
    full stream                 here::test_a_full_stream_fails_the_future_and_the_request_until_there_is_room
                                integration/test_connection.py::test_a_full_stream_refuses_and_says_so
                                integration/test_service_full.py::test_a_full_stream_refuses_the_submission_and_says_so
    full disk                   integration/test_nats_server.py::test_after_a_full_disk_it_wants_to_be_started_again_once_there_is_room
    newer or older SDK          here::test_an_sdk_of_another_protocol_is_told_both_versions_and_what_to_install
                                integration/test_client.py::test_both_versions_are_named_when_the_service_speaks_another_protocol
    newer or older pool         here::test_a_pool_of_another_protocol_is_told_both_versions_and_what_to_install
    another wire version        here::test_a_bundle_of_another_release_stays_queued_and_the_log_says_what_to_do
                                unit/test_wire.py::test_a_bundle_of_a_later_wire_version_is_refused_with_its_version
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from gates import wait_for
from running_pool import RunningPool, running_pool
from service import RunningService, running_service
from waiting import eventually, let_pass

from headrace.bus.functions.code import from_function
from headrace.bus.names import Address
from headrace.bus.nats.connection import Connection
from headrace.bus.store.streams import StreamSettings
from headrace.sdk import (
    Client,
    Executor,
    FunctionUnusable,
    ProtocolMismatch,
    SubmissionRefused,
    Unauthorized,
)

TESTS = Path(__file__).parents[1]
HOUR_S = 3600

# Loaded by every Python that starts with this directory in PYTHONPATH, before anything else.
WRONG_CLOCK = """
import os, time
right, shift_s = time.time, float(os.environ["TEST_CLOCK_SHIFT_S"])
time.time = lambda: right() + shift_s
time.time_ns = lambda: int(time.time() * 1e9)
"""
OTHER_PROTOCOL = """
import os
import headrace.endpoint.pool_service
headrace.endpoint.pool_service.WIRE_VERSION = int(os.environ["TEST_PROTOCOL"])
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    # Grants of functions that end within the tests: whoever believes a wrong clock uses one that has ended.
    with running_service(tmp_path_factory.mktemp("service"), grant_ttl_s=4.0, session_ttl_s=4.0) as running:
        yield running


@pytest.fixture(scope="module")
def pool(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    with running_pool(service, tmp_path_factory.mktemp("pool"), workers=1) as running:
        yield running


@pytest.fixture
def executor(service: RunningService, pool: RunningPool) -> Iterator[Executor]:
    with Client(service.url, service.token) as client, Executor(pool.endpoint_id, client=client) as made:
        yield made


OFFSET = 3


def double(x: Any) -> Any:
    return x * 2


def test_every_test_that_is_named_above_exists() -> None:
    named = re.findall(r"(\S+)::(test_\w+)", __doc__ or "")
    assert len(named) > 40
    for place, name in named:
        path = Path(__file__) if place == "here" else TESTS / place
        assert f"def {name}(" in path.read_text(), f"{place}::{name}"


# Tokens


def test_a_token_that_is_wrong_or_expired_fails_the_future_with_what_to_do(
    service: RunningService, pool: RunningPool
) -> None:
    expired = service.http().post("/api/v1/tokens", json={"expires_in_s": 0.2}).json()["token"]
    eventually(lambda: service.http(expired).get("/api/v1/whoami").status_code == 401)
    for token, problem in ((expired, "has expired"), ("hr_0123456789abcdef_" + "x" * 43, "not known")):
        with (
            Client(service.url, token) as client,
            Executor(pool.endpoint_id, client=client) as executor,
            pytest.raises(Unauthorized, match=rf"{problem}.*headrace login --url {service.url}") as caught,
        ):
            executor.submit(double, 1).result(20)
        assert token not in str(caught.value)


# Functions


def test_a_function_that_cannot_be_packed_fails_its_future(executor: Executor) -> None:
    lock = threading.Lock()
    scope: dict[str, Any] = {}
    exec("def made():\n    return lock.locked()\n", {"lock": lock}, scope)  # noqa: S102 - what a notebook does

    with pytest.raises(FunctionUnusable, match=r"'made'.*cannot be sent to a worker.*lock"):
        executor.submit(scope["made"]).result(20)
    assert executor.submit(double, 1).result(20) == 2


def test_code_of_another_python_without_source_is_told_with_both_versions(
    service: RunningService, executor: Executor
) -> None:
    pickled = base64.b64encode(from_function(lambda x: x + OFFSET).pickled).decode()
    body = {"name": "old", "pickled": pickled, "python_version": "3.9.1"}
    function_id = service.http().post("/api/v1/functions", json=body).json()["function_id"]

    here = rf"{sys.version_info[0]}\.{sys.version_info[1]}"
    with pytest.raises(
        FunctionUnusable, match=rf"registered by Python 3\.9 .*this worker runs Python {here}.*register"
    ):
        executor.submit_to_registered_function(function_id).result(20)


# Events


@pytest.mark.parametrize(
    ("change", "pointer", "problem"),
    [
        ({"filter": {"exact": {"type": "x"}, "regex": {"type": "x"}}}, "/filter/regex", "regex"),
        ({"filter": {"prefix": {"type": ""}}}, "/filter/prefix/type", "1 to 2048 characters"),
        ({"input": {"args": ["a", "{{ event.data. }}"]}}, "/input/args/1", "line 1"),
        ({"input": {"kwargs": {"x": "\n{% if event %}"}}}, "/input/kwargs/x", "line 2"),
    ],
)
def test_an_invalid_filter_or_template_is_refused_with_place_and_problem(
    service: RunningService, pool: RunningPool, change: dict[str, Any], pointer: str, problem: str
) -> None:
    body = {"filter": {"exact": {"type": "x"}}, "function_id": service.add_function(), "endpoint_id": pool.endpoint_id}
    answer = service.http().post("/api/v1/subscriptions", json={**body, **change})

    assert answer.status_code == 422, answer.text
    problems = {each["pointer"]: each["problem"] for each in answer.json()["errors"]}
    assert problem in problems[pointer]
    assert service.http().get("/api/v1/subscriptions").json()["subscriptions"] == []


# NATS


def test_a_service_on_an_old_nats_server_ends_with_one_line_that_names_it(
    service: RunningService, tmp_path: Path
) -> None:
    with old_nats_server("2.10.4") as url:
        said = serve_that_fails(service, tmp_path, url)

    assert "the NATS server is version 2.10.4; Headrace needs 2.12" in said
    assert "--nats-url" in said


def serve_command(service: RunningService, home: Path, nats_url: str) -> list[str]:
    program = [sys.executable, "-m", "headrace.cli.main", "serve", "--home", str(home), "--port", "0"]
    return [*program, "--keys", str(service.keys_dir), "--nats-url", nats_url, "--no-dispatcher"]


def serve_that_fails(service: RunningService, home: Path, nats_url: str, **environ: str) -> str:
    """The one line with which `headrace serve` ends."""
    done = subprocess.run(
        serve_command(service, home, nats_url),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **environ},
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    message = [line for line in done.stderr.splitlines() if line.startswith("headrace: ")]
    assert len(message) == 1, done.stderr
    return message[0]


@contextlib.contextmanager
def old_nats_server(version: str) -> Iterator[str]:
    """What an old NATS server says to whoever connects, and no more."""
    info = {"server_id": "N", "version": version, "proto": 1, "headers": True, "max_payload": 1048576, "nonce": "abc"}

    def talk() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection:
                    connection.sendall(f"INFO {json.dumps(info)}\r\n".encode())
                    while data := connection.recv(65536):
                        connection.sendall(b"PONG\r\n" * data.count(b"PING\r\n"))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=talk, daemon=True).start()
        yield f"nats://127.0.0.1:{listening.getsockname()[1]}"


def test_while_nats_is_away_futures_wait_and_requests_are_answered(tmp_path: Path) -> None:
    with (
        running_service(tmp_path / "service", bus_wait_s=0.3) as service,
        running_pool(service, tmp_path / "pool", workers=1) as pool,
        Client(service.url, service.token) as client,
        Executor(pool.endpoint_id, client=client) as executor,
    ):
        assert executor.submit(double, 1).result(20) == 2
        gate = tmp_path / "gate"
        running = executor.submit(wait_for, str(gate))
        eventually(running.running, within_s=10)

        service.nats.kill()
        service.loop.run(service.nats.wait())
        gate.touch()
        submitted = [executor.submit(double, i) for i in range(20)]
        answer = service.http().get(f"/api/v1/endpoints/{pool.endpoint_id}", timeout=3)
        assert answer.status_code == 503
        assert "message bus does not answer at this moment; try again shortly" in answer.json()["detail"]
        assert answer.headers["retry-after"] == "1"
        assert not any(future.done() for future in [running, *submitted])

        service.loop.run(service.nats.start())
        assert [future.result(30) for future in submitted] == [2 * i for i in range(20)]
        assert running.result(30) == "done"
        eventually(lambda: service.http().get(f"/api/v1/endpoints/{pool.endpoint_id}").status_code == 200)


def test_a_full_stream_fails_the_future_and_the_request_until_there_is_room(tmp_path: Path) -> None:
    small = StreamSettings(tasks_bytes=200_000)
    with (
        running_service(tmp_path / "service", streams=small) as service,
        running_pool(service, tmp_path / "pool", workers=1, started=False) as pool,
        Client(service.url, service.token) as client,
        Executor(pool.endpoint_id, client=client, batch_size=1) as executor,
    ):
        futures = [executor.submit(double, "x" * 50_000) for _ in range(8)]
        # Three fit.
        eventually(lambda: sum(future.done() for future in futures) == 5, within_s=10)
        refused, taken = [f for f in futures if f.done()], [f for f in futures if not f.done()]
        with pytest.raises(SubmissionRefused, match=r"the task was not taken: .*maximum bytes"):
            refused[0].result(0)
        body = {"function_id": service.add_function(), "args": ["x" * 50_000]}
        answer = service.http().post(f"/api/v1/endpoints/{pool.endpoint_id}/tasks", json=body)
        assert answer.status_code == 507
        assert "the store is full; nothing was stored" in answer.json()["detail"]

        pool.start()
        assert {len(future.result(20)) for future in taken} == {100_000}
        # There is room once the pool has acked what it has done, a moment after the results are here.
        path = f"/api/v1/endpoints/{pool.endpoint_id}/tasks"
        eventually(lambda: service.http().post(path, json=body).status_code == 202)
        eventually(lambda: executor.submit(double, "x" * 50_000).exception(20) is None)


# Clocks

CLIENT = """
import json, sys, time
from headrace.sdk import Client, Executor

url, token, endpoint_id = sys.argv[1:]
with Client(url, token) as client, Executor(endpoint_id, client=client) as executor:
    asked, really = [], client.grant_function
    client.grant_function = lambda *given: (asked.append(given), really(*given))[1]
    futures, end = [], time.monotonic() + 20
    while len(asked) < 2 and time.monotonic() < end:
        futures.append(executor.submit(pow, 2, 10))
        assert futures[-1].result(20) == 1024
        time.sleep(0.03)  # a pace: the grant comes to its end by itself
    ids = [str(future.task_id) for future in futures]
    print(json.dumps({"time": time.time(), "task_ids": ids, "grants": len(asked)}))
"""


@pytest.fixture
def wrong_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """From here on programs that are started have a clock that is wrong; this process keeps its own."""
    shift_s: int = request.param
    (tmp_path / "wrong-clock").mkdir()
    (tmp_path / "wrong-clock" / "sitecustomize.py").write_text(WRONG_CLOCK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "wrong-clock"))
    monkeypatch.setenv("TEST_CLOCK_SHIFT_S", str(shift_s))
    said = subprocess.run([sys.executable, "-c", "import time; print(time.time())"], capture_output=True, check=True)
    assert abs(float(said.stdout) - time.time() - shift_s) < 60
    return shift_s


wrong_by_an_hour = pytest.mark.parametrize("wrong_clock", [-HOUR_S, HOUR_S], indirect=True, ids=["behind", "ahead"])


@wrong_by_an_hour
def test_a_clients_clock_that_is_wrong_by_an_hour_does_not_matter(
    service: RunningService, pool: RunningPool, wrong_clock: int
) -> None:
    command = [sys.executable, "-c", CLIENT, service.url, service.token, pool.endpoint_id]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr

    said = json.loads(done.stdout)
    assert abs(said["time"] - time.time() - wrong_clock) < 60
    # The grant was renewed when it came to its end, and not asked for again and again.
    assert said["grants"] == 2
    assert len(said["task_ids"]) > 5
    for task_id in said["task_ids"][:2] + said["task_ids"][-2:]:
        assert uuid.UUID(task_id).version == 8
        assert service.http().get(f"/api/v1/tasks/{task_id}").json()["state"] == "succeeded"


@wrong_by_an_hour
def test_a_pools_clock_that_is_wrong_by_an_hour_does_not_matter(
    service: RunningService, wrong_clock: int, tmp_path: Path
) -> None:
    with (
        running_pool(service, tmp_path / "pool", workers=1, name=f"wrong by {wrong_clock}") as pool,
        Client(service.url, service.token) as client,
        Executor(pool.endpoint_id, client=client) as executor,
    ):
        end = time.monotonic() + 2.5  # calls go on while the pool's credential is renewed
        while time.monotonic() < end:
            future = executor.submit(double, 21)
            assert future.result(20) == 42
            assert future.times is not None
            # Workers start without the environment of their pool, so it is the pool's own time that is wrong.
            assert abs(future.times.taken_at - time.time() - wrong_clock) < 60
            let_pass(0.03, "a pace: the credential is renewed after a time")
        answer = service.http().get(f"/api/v1/tasks/{future.task_id}").json()
        assert answer["state"] == "succeeded"


@wrong_by_an_hour
def test_a_services_clock_that_is_wrong_by_an_hour_is_named(
    service: RunningService, wrong_clock: int, tmp_path: Path
) -> None:
    said = serve_that_fails(service, tmp_path, service.nats.url)

    relation = "ahead of" if wrong_clock > 0 else "behind"
    assert re.search(rf"the clock of this machine is (3599|3600|3601) s {relation} that of the NATS server at", said)
    assert "set the clock right (NTP)" in said


def test_a_client_that_goes_on_with_a_grant_that_has_ended_is_refused(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.sdk.session.Session._ends_soon", lambda *_: False)

    def refusal() -> BaseException | None:
        return executor.submit(double, 1).exception(20)

    error = eventually(refusal, within_s=10)
    assert isinstance(error, FunctionUnusable)
    assert "had expired when the task was submitted; submit it again" in str(error)


# Releases that differ


def cure(relation: str, theirs: int) -> str:
    installed = re.escape(version("headrace"))
    return (
        rf"headrace {installed}, protocol {theirs}\) is {relation} than this service"
        rf" \(headrace {installed}, protocol 1\); run `pip install headrace=={installed}` on the client's side"
    )


@pytest.mark.parametrize(("protocol", "relation"), [(0, "older"), (2, "newer")])
def test_an_sdk_of_another_protocol_is_told_both_versions_and_what_to_install(
    service: RunningService, pool: RunningPool, monkeypatch: pytest.MonkeyPatch, protocol: int, relation: str
) -> None:
    monkeypatch.setattr("headrace.sdk.client.PROTOCOL", protocol)

    with (
        Client(service.url, service.token) as client,
        Executor(pool.endpoint_id, client=client) as executor,
        pytest.raises(ProtocolMismatch, match=cure(relation, protocol)),
    ):
        executor.submit(double, 1).result(20)


@pytest.mark.parametrize(("protocol", "relation"), [(0, "older"), (2, "newer")])
def test_a_pool_of_another_protocol_is_told_both_versions_and_what_to_install(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, relation: str
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sitecustomize.py").write_text(OTHER_PROTOCOL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))
    monkeypatch.setenv("TEST_PROTOCOL", str(protocol))

    with running_pool(service, tmp_path / "pool", started=False, name=f"protocol {protocol}") as pool:
        with pytest.raises(RuntimeError, match="the pool ended with 69"):
            pool.start()
        assert re.search(f"The service refused this pool: .*{cure(relation, protocol)}", pool.log_path.read_text())


def test_a_bundle_of_another_release_stays_queued_and_the_log_says_what_to_do(
    service: RunningService, pool: RunningPool, executor: Executor
) -> None:
    place = Address(
        endpoint=uuid.UUID(pool.endpoint_id),
        pool="default",
        principal="urn:headrace:user:admin",
        group=uuid.uuid4(),
        bundle=uuid.uuid4(),
    )

    async def store(connection: Connection) -> None:
        await connection.store(place.task_subject, b"HB\x02" + b"\xff" * 100)

    assert executor.submit(double, 1).result(20) == 2  # there is a lane for us
    service.bus(store)

    expected = (
        "Left in the queue: a bundle of wire version 2; this release of Headrace reads version 1."
        " Upgrade this endpoint: `pip install --upgrade headrace`"
    )
    eventually(lambda: expected in pool.log_path.read_text(), within_s=10)
    assert executor.submit(double, 2).result(20) == 4

    async def queued(connection: Connection) -> Any:
        return await connection.read_last("TASKS", place.task_subject)

    assert service.bus(queued) is not None
    assert service.http().get(f"/api/v1/endpoints/{pool.endpoint_id}").status_code == httpx.codes.OK
