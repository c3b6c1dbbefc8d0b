"""What the service says to requests that it cannot carry out."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from service import RunningService, running_service
from waiting import eventually

FUNCTIONS = "/api/v1/functions"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service"), body_timeout_s=1.0) as running:
        yield running


@pytest.fixture
def http(service: RunningService) -> httpx.Client:
    return service.http()


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert set(body) == {"code", "detail", "errors"}
    return body


def test_an_unknown_route_is_told_in_the_one_shape(http: httpx.Client) -> None:
    error = error_of(http.get("/api/v1/nothing"), 404)
    assert error["code"] == "NotFound"
    assert "/api/v1/nothing" in error["detail"]


def test_a_wrong_method_is_told_with_those_that_are_allowed(http: httpx.Client) -> None:
    response = http.put(FUNCTIONS, json={})
    assert error_of(response, 405)["code"] == "MethodNotAllowed"
    assert response.headers["allow"] == "GET, POST"


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b'{"name": }', "line 1, column 10"),
        (b"", "needs a JSON body"),
        (b'{"name": "a", "name": "b"}', "'name' twice"),
        (b'{"x": NaN}', "NaN is not a JSON number"),
        (b'{"x": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"x": 1e999}', "too large"),
        (b'{"x": ' + b"9" * 5000 + b"}", "5000 digits"),
        (b'{"x": "\xff"}', "not UTF-8: byte 7"),
        (b'{"x": "\\ud800"}', "surrogate"),
        (b"[" * 100_000, "nested too deeply"),
    ],
    ids=["syntax", "empty", "twice", "nan", "infinity", "huge float", "huge int", "utf-8", "surrogate", "deep"],
)
def test_a_body_that_is_not_strict_json_is_refused_with_the_place(http: httpx.Client, body: bytes, part: str) -> None:
    error = error_of(http.post(FUNCTIONS, content=body), 400)
    assert error["code"] == "MalformedRequest"
    assert part in error["detail"]


def test_wrong_types_and_extra_fields_are_refused_with_json_pointers(http: httpx.Client) -> None:
    body = {"name": 5, "python_version": "3.11", "source": "x", "metadata": {"a": 1}, "colour": "red"}
    error = error_of(http.post(FUNCTIONS, json=body), 422)
    assert error["code"] == "InvalidRequest"
    problems = {each["pointer"]: each["problem"] for each in error["errors"]}
    assert "5 is not of type 'string'" in problems["/name"]
    assert any("colour" in problem for problem in problems.values())


def test_an_unknown_query_parameter_is_refused_by_name(http: httpx.Client) -> None:
    error = error_of(http.get(FUNCTIONS, params={"pgae": "2"}), 422)
    assert "pgae" in error["detail"]
    assert error["errors"][0]["pointer"] == "?pgae"


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
def test_a_body_of_100_mb_is_refused_with_the_limit_and_not_kept(service: RunningService, chunked: bool) -> None:
    before = _memory_bytes()

    def chunks() -> Iterator[bytes]:
        for _ in range(1600):
            yield b" " * 62_500

    headers = {} if chunked else {"Content-Length": "100000000"}
    response = service.http().post(FUNCTIONS, content=chunks(), headers=headers)
    error = error_of(response, 413)
    assert error["code"] == "PayloadTooLarge"
    assert "10000000 bytes (10 MB)" in error["detail"]
    assert _memory_bytes() - before < 60_000_000
    assert service.http().get("/healthz").status_code == 200


def test_a_body_that_does_not_arrive_is_given_up(service: RunningService) -> None:
    with socket.create_connection(_address(service)) as raw:
        head = f"POST {FUNCTIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nAuthorization: Bearer {service.token}"
        raw.sendall(f"{head}\r\n\r\n{{".encode())
        raw.settimeout(10)
        assert b" 408 " in raw.recv(4096)


def test_a_long_address_is_refused(http: httpx.Client) -> None:
    assert "8192 bytes" in error_of(http.get(FUNCTIONS, params={"q": "x" * 9000}), 414)["detail"]


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, "needs a token"),
        ("Basic YTpi", "another form"),
        ("Bearer", "another form"),
        ("Bearer nonsense", "not known"),
        ("Bearer hr_0123456789abcdef_" + "x" * 43, "not known"),
        ("Bearer " + "x" * 20_000, "not known"),
    ],
    ids=["missing", "basic", "empty", "nonsense", "unknown", "huge"],
)
def test_a_request_without_a_valid_token_is_told_what_is_wrong_and_how_to_ask(
    service: RunningService, header: str | None, part: str
) -> None:
    headers = {} if header is None else {"Authorization": header}
    response = service.http("").get(FUNCTIONS, headers=headers)
    error = error_of(response, 401)
    assert part in error["detail"]
    assert response.headers["www-authenticate"].startswith('Bearer realm="headrace"')
    assert "x" * 43 not in response.text


def test_an_expired_token_is_told_to_have_expired(service: RunningService, http: httpx.Client) -> None:
    token = http.post("/api/v1/tokens", json={"expires_in_s": 0.3}).json()["token"]
    client = service.http(token)
    eventually(lambda: client.get("/api/v1/whoami").status_code != 200)
    assert "has expired" in error_of(client.get("/api/v1/whoami"), 401)["detail"]


def test_a_body_is_not_read_before_the_token_is_known(service: RunningService) -> None:
    with socket.create_connection(_address(service)) as raw:
        raw.sendall(f"POST {FUNCTIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n".encode())
        raw.settimeout(5)
        assert b" 401 " in raw.recv(4096)


def test_another_protocol_is_refused_with_both_versions_and_the_cure(http: httpx.Client) -> None:
    body = {"protocol": 2, "sdk_version": "9.1.0", "python_version": "3.12.0", "a_new_field": True}
    error = error_of(http.post("/api/v1/sessions", json=body), 409)
    assert error["code"] == "ProtocolMismatch"
    for part in ("headrace 9.1.0, protocol 2", "newer", "protocol 1", "pip install headrace=="):
        assert part in error["detail"]


def test_an_unexpected_error_tells_an_id_that_the_log_has_and_nothing_else(
    service: RunningService, http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    key = "ffffffffffffffffffffffffffffffff"

    async def spoil(connection: Any) -> None:
        await connection.store(f"$KV.functions.{key}", b"not json: secret")

    service.bus(spoil)
    error = error_of(http.get(f"{FUNCTIONS}/{key}"), 500)
    assert error["code"] == "InternalError"
    assert "secret" not in json.dumps(error)
    incident = error["detail"].rsplit(" ", 1)[-1]
    assert incident in caplog.text


def _address(service: RunningService) -> tuple[str, int]:
    host, port = service.url.removeprefix("http://").split(":")
    return host, int(port)


def _memory_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize(
    ("path", "content_type", "status"),
    [
        ("nothing", "application/json", 404),
        ("functions", "application/json", 413),
        ("events", "application/cloudevents+xml", 415),
    ],
)
def test_a_client_that_writes_to_the_end_before_it_reads_is_answered_too(
    service: RunningService, path: str, content_type: str, status: int
) -> None:
    headers = {"Authorization": f"Bearer {service.token}", "Content-Type": content_type}
    request = urllib.request.Request(f"{service.url}/api/v1/{path}", data=bytes(20_000_000), headers=headers)  # noqa: S310 - our own service on loopback

    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)  # noqa: S310 - our own service on loopback

    assert caught.value.code == status
    caught.value.close()
