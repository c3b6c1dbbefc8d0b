"""Sessions, grants and pools: what opens the bus, and to whom."""

from __future__ import annotations

import base64
import time
from typing import Any
from uuid import UUID

import httpx
from service import RunningService

from headrace.bus.installation.credentials import Credentials
from headrace.bus.keys import bundle_key, check_function_grant
from headrace.bus.nats.connection import Connection

SDK = {"protocol": 1, "sdk_version": "0.1.0", "python_version": "3.11.7"}
ABOUT = {"python_version": "3.11.7", "headrace_version": "0.1.0", "host": "h", "protocol": 1}
POOL = {"pool": "default", **ABOUT, "lanes": True}


def open_pool(service: RunningService, endpoint_id: str, token: str) -> dict[str, Any]:
    answer = service.http(token).post(f"/api/v1/endpoints/{endpoint_id}/pools", json=POOL)
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


def connects(service: RunningService, session: dict[str, Any]) -> bool:
    async def connect() -> bool:
        credentials = Credentials(jwt=session["jwt"], seed=session["seed"], inbox_prefix=session["inbox_prefix"])
        async with Connection(session["nats_urls"], credentials, name="test") as connection:
            return connection.connected

    return service.loop.run(connect())


def test_a_session_opens_the_bus_and_signs_bundles_that_the_pool_believes(service: RunningService) -> None:
    endpoint_id, token = service.add_endpoint("signed")
    session = service.http().post("/api/v1/sessions", json={**SDK, "endpoint_id": endpoint_id}).json()
    pool = open_pool(service, endpoint_id, token)
    assert connects(service, session)
    assert connects(service, pool)
    secret = base64.b64decode(pool["pool_secret"])
    expected = bundle_key(secret, session["principal"], session["bundle_key_expires"])
    assert base64.b64decode(session["bundle_key"]) == expected
    assert session["bundle_key_expires"] >= time.time() + session["expires_in_s"]
    assert session["max_payload"] == pool["max_payload"] > 1_000_000


def test_without_a_name_the_only_endpoint_is_used_and_otherwise_all_are_named(service: RunningService) -> None:
    token = service.add_user("chooser")
    user = service.http(token)
    none = user.post("/api/v1/sessions", json=SDK)
    assert none.status_code == 409
    assert "there is none" in none.json()["detail"]

    first, _ = service.add_endpoint("first", token)
    assert user.post("/api/v1/sessions", json=SDK).json()["endpoint_id"] == first

    second, _ = service.add_endpoint("second", token)
    several = user.post("/api/v1/sessions", json=SDK)
    assert several.status_code == 409
    for part in ("first", first, "second", second):
        assert part in several.json()["detail"]


def test_a_stranger_gets_no_session(service: RunningService) -> None:
    endpoint_id, token = service.add_endpoint("closed")
    stranger = service.http(service.add_user("nosy"))
    answer = stranger.post("/api/v1/sessions", json={**SDK, "endpoint_id": endpoint_id})
    assert answer.status_code == 404
    assert service.http(token).post("/api/v1/sessions", json=SDK).status_code == 403


def test_a_grant_is_what_the_pool_checks(service: RunningService) -> None:
    endpoint_id, token = service.add_endpoint("granting")
    function_id = service.add_function()
    grant = _granted(service.http(), endpoint_id, function_id).json()
    secret = base64.b64decode(open_pool(service, endpoint_id, token)["pool_secret"])
    signature = base64.b64decode(grant["grant"])
    check_function_grant(secret, signature, UUID(function_id), "urn:headrace:user:admin", grant["grant_expires"])


def test_a_grant_needs_a_visible_function_an_accessible_endpoint_and_the_allow_list(service: RunningService) -> None:
    allowed, other = service.add_function(public=True), service.add_function(public=True)
    private = service.add_function()
    endpoint_id, _ = service.add_endpoint("careful", shared_with=["urn:headrace:user:gus"], allowed_functions=[allowed])
    gus, eve = service.http(service.add_user("gus")), service.http(service.add_user("eve"))
    assert _granted(gus, endpoint_id, allowed).status_code == 200
    assert _granted(gus, endpoint_id, private).status_code == 404
    assert _granted(eve, endpoint_id, allowed).status_code == 404
    refused = _granted(gus, endpoint_id, other)
    assert refused.status_code == 403
    assert "allow list" in refused.json()["detail"]


def test_functions_of_an_allowed_owner_need_no_id_in_the_list(service: RunningService) -> None:
    one = service.http(service.add_user("writer"))
    body = {"name": "f", "source": "def f():\n    pass\n", "python_version": "3.11.0", "public": True}
    theirs = one.post("/api/v1/functions", json=body).json()["function_id"]
    ours = service.add_function()
    endpoint_id, _ = service.add_endpoint("by-owner", allowed_function_owners=["urn:headrace:user:writer"])
    assert _granted(service.http(), endpoint_id, theirs).status_code == 200
    assert _granted(service.http(), endpoint_id, ours).status_code == 403
    service.http().patch(f"/api/v1/endpoints/{endpoint_id}", json={"allowed_functions": [ours]})
    assert _granted(service.http(), endpoint_id, ours).status_code == 200
    assert _granted(service.http(), endpoint_id, theirs).status_code == 200
    service.http().patch(f"/api/v1/endpoints/{endpoint_id}", json={"allowed_function_owners": None})
    assert _granted(service.http(), endpoint_id, theirs).status_code == 403


def test_a_pool_fetches_the_code_of_a_task_that_it_was_sent(service: RunningService) -> None:
    endpoint_id, token = service.add_endpoint("fetching")
    function_id = service.add_function("def f():\n    return 1\n", entry_point="f")
    pool = open_pool(service, endpoint_id, token)
    grant = _granted(service.http(), endpoint_id, function_id).json()
    answer = _fetched(service, endpoint_id, pool["code_token"], grant)
    assert answer.status_code == 200
    code = answer.json()
    assert code["source"] == "def f():\n    return 1\n"
    assert code["entry_point"] == "f"
    assert code["name"] == "f"


def test_code_is_refused_without_a_code_token_or_without_a_fitting_grant(service: RunningService) -> None:
    endpoint_id, token = service.add_endpoint("fenced")
    other_id, other_token = service.add_endpoint("neighbour")
    function_id, another_id = service.add_function(), service.add_function()
    pool, neighbour = open_pool(service, endpoint_id, token), open_pool(service, other_id, other_token)
    grant = _granted(service.http(), endpoint_id, function_id).json()
    code_token = pool["code_token"]

    for wrong in (token, service.token, code_token[:-1] + "x", "nonsense", code_token.replace("default", "other")):
        assert _fetched(service, endpoint_id, wrong, grant).status_code == 401
    assert _fetched(service, endpoint_id, neighbour["code_token"], grant).status_code == 403
    assert _fetched(service, other_id, neighbour["code_token"], grant).status_code == 403
    for changed in (
        {"grant_expires": grant["grant_expires"] + 1},
        {"function_id": another_id},
        {"grant": base64.b64encode(b"x" * 32).decode()},
    ):
        assert _fetched(service, endpoint_id, code_token, {**grant, **changed}).status_code == 403
    assert _fetched(service, endpoint_id, code_token, grant, principal="urn:headrace:user:eve").status_code == 403
    assert _fetched(service, endpoint_id, code_token, {**grant, "grant": "?"}).status_code == 422
    assert _fetched(service, endpoint_id, code_token, grant).status_code == 200


def test_code_of_a_deleted_function_is_gone(service: RunningService) -> None:
    endpoint_id, token = service.add_endpoint("forgetting")
    function_id = service.add_function()
    pool = open_pool(service, endpoint_id, token)
    grant = _granted(service.http(), endpoint_id, function_id).json()
    service.http().delete(f"/api/v1/functions/{function_id}")
    assert _fetched(service, endpoint_id, pool["code_token"], grant).status_code == 404


def test_of_a_deleted_endpoint_the_token_is_refused_not_the_function(service: RunningService) -> None:
    endpoint_id, token = service.add_endpoint("leaving")
    pool = open_pool(service, endpoint_id, token)
    grant = _granted(service.http(), endpoint_id, service.add_function()).json()
    service.http().delete(f"/api/v1/endpoints/{endpoint_id}")
    # With 404 the pool would end tasks as failed that the deletion is about to cancel.
    assert _fetched(service, endpoint_id, pool["code_token"], grant).status_code == 401


def test_code_stops_when_the_allow_list_says_so(service: RunningService) -> None:
    endpoint_id, token = service.add_endpoint("closing")
    function_id = service.add_function()
    pool = open_pool(service, endpoint_id, token)
    grant = _granted(service.http(), endpoint_id, function_id).json()
    service.http().patch(f"/api/v1/endpoints/{endpoint_id}", json={"allowed_functions": []})
    assert _fetched(service, endpoint_id, pool["code_token"], grant).status_code == 403


def _granted(client: httpx.Client, endpoint_id: str, function_id: str) -> httpx.Response:
    return client.post(f"/api/v1/endpoints/{endpoint_id}/function-grants", json={"function_id": function_id})


def _fetched(
    service: RunningService,
    endpoint_id: str,
    code_token: str,
    grant: dict[str, Any],
    principal: str = "urn:headrace:user:admin",
) -> httpx.Response:
    path = f"/api/v1/endpoints/{endpoint_id}/pools/default/code/{grant['function_id']}"
    params = {"principal": principal, "grant": grant["grant"], "grant_expires": grant["grant_expires"]}
    return service.http(code_token).get(path, params=params)
