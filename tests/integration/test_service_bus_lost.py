"""The service while the bus is away, and after it came back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from service import RunningService, running_service
from waiting import eventually


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(
        tmp_path_factory.mktemp("service"), relaxed=False, bus_wait_s=0.3, request_timeout_s=1.5
    ) as running:
        yield running


def test_a_lost_bus_is_told_in_bounded_time_and_work_goes_on_when_it_is_back(service: RunningService) -> None:
    http = service.http()
    function_id = service.add_function()
    endpoint_id, _ = service.add_endpoint()
    assert http.get(f"/api/v1/functions/{function_id}").status_code == 200

    service.nats.kill()
    service.loop.run(service.nats.wait())
    eventually(lambda: http.get("/readyz").status_code == 503)
    assert http.get("/healthz").status_code == 200
    for method, path, body in (
        ("GET", f"/api/v1/functions/{function_id}", None),
        ("GET", "/api/v1/endpoints", None),
        ("POST", "/api/v1/functions", {"name": "g", "python_version": "3.11", "source": "x"}),
        ("POST", "/api/v1/sessions", {"protocol": 1, "sdk_version": "1", "python_version": "3.11"}),
        ("POST", f"/api/v1/endpoints/{endpoint_id}/tasks", {"function_id": function_id}),
    ):
        answer = http.request(method, path, json=body, timeout=20)
        assert answer.status_code == 503, answer.text
        assert answer.json()["code"] == "BusUnavailable"
        assert "message bus" in answer.json()["detail"]
        assert answer.headers["retry-after"] == "1"

    service.loop.run(service.nats.start())
    eventually(lambda: http.get("/readyz").status_code == 200, within_s=10)
    assert http.get(f"/api/v1/functions/{function_id}").status_code == 200
    assert service.add_function()


def test_a_request_that_is_under_way_when_the_bus_goes_is_answered_in_bounded_time(service: RunningService) -> None:
    http = service.http()
    assert http.get("/api/v1/whoami").status_code == 200
    service.nats.kill()
    body = {"name": "g", "python_version": "3.11", "source": "x"}
    assert http.post("/api/v1/functions", json=body, timeout=20).status_code == 503


def test_a_new_store_takes_the_administrators_token_that_lies_in_the_home(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("twice")
    with running_service(directory) as first:
        token = first.token
        first.http().get("/api/v1/whoami").raise_for_status()
        function_id = first.add_function()
    with running_service(directory) as second:
        assert second.token == token
        assert second.http().get(f"/api/v1/functions/{function_id}").status_code == 200
    store = directory / "home" / "nats" / "jetstream"
    store.rename(directory / "old")
    with running_service(directory) as third:
        assert third.http(token).get("/api/v1/whoami").json()["admin"] is True
        assert third.http(token).get(f"/api/v1/functions/{function_id}").status_code == 404


def test_a_revoked_administrators_token_does_not_come_back_with_the_next_start(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("revoked")
    with running_service(directory) as first:
        token = first.token
        spare = first.http().post("/api/v1/tokens", json={}).json()["token"]
        assert first.http().delete(f"/api/v1/tokens/{token.split('_')[1]}").status_code == 204
        assert first.http().get("/api/v1/whoami").status_code == 401
        listed = first.http(spare).get("/api/v1/tokens").json()["tokens"]
        assert token.split("_")[1] not in {each["token_id"] for each in listed}
    with running_service(directory) as second:
        assert second.http(token).get("/api/v1/whoami").status_code == 401
    (directory / "home" / "admin.token").unlink()
    with running_service(directory) as third:
        assert third.token != token
        assert third.http().get("/api/v1/whoami").json()["admin"] is True
