"""Endpoints over HTTP: registration, sharing, presence."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from service import RunningService, running_service
from waiting import eventually

ENDPOINTS = "/api/v1/endpoints"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service"), token_cache_s=0.0, presence_ttl_s=1.0) as running:
        yield running


def names(client: httpx.Client) -> set[str]:
    return {each["name"] for each in client.get(ENDPOINTS).json()["endpoints"]}


def presence(**changes: Any) -> dict[str, Any]:
    pool = {"pool": "default", "workers": 2, "busy": 1, "queued": 3}
    return {"host": "h", "python_version": "3.11.7", "headrace_version": "0.1.0", "pools": [pool], **changes}


def test_an_endpoint_is_its_owners_alone_until_it_is_shared(service: RunningService) -> None:
    ada, bob = service.http(service.add_user("ada")), service.http(service.add_user("bob", ("urn:headrace:group:lab",)))
    endpoint_id = ada.post(ENDPOINTS, json={"name": "adas"}).json()["endpoint_id"]
    path = f"{ENDPOINTS}/{endpoint_id}"
    assert bob.get(path).status_code == 404
    assert bob.get(f"{path}/status").status_code == 404
    assert "adas" not in names(bob)

    for sharing in ({"shared_with": ["urn:headrace:user:bob"]}, {"shared_with": ["urn:headrace:group:lab"]}):
        assert ada.patch(path, json=sharing).status_code == 200
        assert bob.get(path).status_code == 200
        assert "adas" in names(bob)
    assert bob.delete(path).status_code == 403
    assert bob.patch(path, json={"public": True}).status_code == 403

    ada.patch(path, json={"shared_with": []})
    assert bob.get(path).status_code == 404
    ada.patch(path, json={"public": True})
    assert bob.get(path).status_code == 200


def test_names_are_unique_for_each_owner(service: RunningService) -> None:
    ann, ben = service.http(service.add_user("ann")), service.http(service.add_user("ben"))
    first = ann.post(ENDPOINTS, json={"name": "laptop"}).json()["endpoint_id"]
    again = ann.post(ENDPOINTS, json={"name": "laptop"})
    assert again.status_code == 409
    assert first in again.json()["detail"]
    assert ben.post(ENDPOINTS, json={"name": "laptop"}).status_code == 201
    assert ann.delete(f"{ENDPOINTS}/{first}").status_code == 204
    assert ann.post(ENDPOINTS, json={"name": "laptop"}).status_code == 201


def test_registering_again_keeps_what_is_left_out_and_ends_the_old_token(service: RunningService) -> None:
    owner = service.http(service.add_user("owner"))
    first = owner.post(ENDPOINTS, json={"name": "one", "public": True}).json()
    endpoint_id = first["endpoint_id"]
    second = owner.post(ENDPOINTS, json={"name": "two", "endpoint_id": endpoint_id}).json()
    assert second["endpoint_id"] == endpoint_id
    shown = owner.get(f"{ENDPOINTS}/{endpoint_id}").json()
    assert (shown["name"], shown["public"]) == ("two", True)
    assert names(owner) >= {"two"}
    assert service.http(first["endpoint_token"]).get(f"{ENDPOINTS}/{endpoint_id}").status_code == 401
    assert service.http(second["endpoint_token"]).get(f"{ENDPOINTS}/{endpoint_id}").status_code == 200
    # The old name is free again.
    assert owner.post(ENDPOINTS, json={"name": "one"}).status_code == 201


def test_nobody_takes_over_somebody_elses_endpoint_id(service: RunningService) -> None:
    endpoint_id, _ = service.add_endpoint("mine")
    thief = service.http(service.add_user("thief"))
    answer = thief.post(ENDPOINTS, json={"name": "mine", "endpoint_id": endpoint_id})
    assert answer.status_code == 409
    assert service.http().get(f"{ENDPOINTS}/{endpoint_id}").json()["owner"] == "urn:headrace:user:admin"


def test_presence_makes_an_endpoint_online_until_it_says_goodbye(service: RunningService) -> None:
    endpoint_id, token = service.add_endpoint("present")
    path = f"{ENDPOINTS}/{endpoint_id}"
    user, manager = service.http(), service.http(token)
    assert user.get(f"{path}/status").json()["status"] == "offline"
    assert manager.put(f"{path}/presence", json=presence()).status_code == 204
    status = user.get(f"{path}/status").json()
    assert status["status"] == "online"
    assert [(each["pool"], each["workers"]) for each in status["pools"]] == [("default", 2)]
    assert {e["name"]: e["status"] for e in user.get(ENDPOINTS).json()["endpoints"]}["present"] == "online"
    assert manager.delete(f"{path}/presence").status_code == 204
    assert user.get(f"{path}/status").json()["status"] == "offline"


def test_how_busy_a_machine_is_only_the_owner_sees(service: RunningService) -> None:
    endpoint_id, token = service.add_endpoint("loaded", public=True)
    load = {"cpus": 2, "load_1m": 0.5, "memory_bytes": 8_000, "memory_available_bytes": 4_000, "disk_free_bytes": 1}
    said = presence(manager="vm-1", load=load)
    assert service.http(token).put(f"{ENDPOINTS}/{endpoint_id}/presence", json=said).status_code == 204

    (manager,) = service.http().get(f"{ENDPOINTS}/{endpoint_id}/status").json()["managers"]
    assert (manager["manager"], manager["host"], manager["load"]) == ("vm-1", "h", load)
    strangers = service.http(service.add_user("stranger")).get(f"{ENDPOINTS}/{endpoint_id}/status").json()
    assert strangers["status"] == "online"
    assert "managers" not in strangers


def test_a_sign_of_life_counts_though_it_says_more_than_the_service_knows(service: RunningService) -> None:
    endpoint_id, token = service.add_endpoint("newer")
    path = f"{ENDPOINTS}/{endpoint_id}"
    said = presence(mood="fine", load={"cpus": 2, "fans": 3}, pools=[{"pool": "default", "moons": 1}])

    assert service.http(token).put(f"{path}/presence", json=said).status_code == 204
    assert service.http().get(f"{path}/status").json()["status"] == "online"


def test_an_endpoint_that_falls_silent_is_offline(service: RunningService) -> None:
    endpoint_id, token = service.add_endpoint("silent")
    path = f"{ENDPOINTS}/{endpoint_id}"
    service.http(token).put(f"{path}/presence", json=presence())
    http = service.http()
    assert http.get(f"{path}/status").json()["status"] == "online"
    eventually(lambda: http.get(f"{path}/status").json()["status"] == "offline")


def test_a_quiet_manager_gives_rare_signs_and_is_offline_soon_after_its_connection_has_ended(
    service: RunningService,
) -> None:
    endpoint_id, token = service.add_endpoint("quiet")
    path = f"{ENDPOINTS}/{endpoint_id}"
    user, manager = service.http(), service.http(token)
    assert manager.put(f"{path}/presence", json=presence(manager="m")).headers["Headrace-Next-Sign"] == "0.333333"
    said = manager.put(f"{path}/presence", json=presence(manager="m", quiet=True))
    assert said.headers["Headrace-Next-Sign"] == "90"

    with pytest.raises(httpx.ReadTimeout):
        manager.get(f"{path}/wanted-pools", params={"manager": "m", "wait": "30s"}, timeout=1.5)

    eventually(lambda: user.get(f"{path}/status").json()["status"] == "offline")


def test_an_endpoints_token_acts_for_its_endpoint_only(service: RunningService) -> None:
    endpoint_id, token = service.add_endpoint("a")
    other_id, _ = service.add_endpoint("b")
    manager = service.http(token)
    assert manager.put(f"{ENDPOINTS}/{other_id}/presence", json=presence()).status_code == 403
    assert manager.get(f"{ENDPOINTS}/{other_id}").status_code == 403
    for path in ("/api/v1/functions", ENDPOINTS, "/api/v1/users", "/api/v1/tokens", "/api/v1/whoami"):
        assert manager.get(path).status_code == 403, path
    assert manager.post("/api/v1/tokens", json={}).status_code == 403
    # And a user's token is not an endpoint's, not even its owner's.
    assert service.http().put(f"{ENDPOINTS}/{endpoint_id}/presence", json=presence()).status_code == 403


def test_a_deleted_endpoint_is_gone_and_so_is_its_token(service: RunningService) -> None:
    endpoint_id, token = service.add_endpoint("gone")
    path = f"{ENDPOINTS}/{endpoint_id}"
    assert service.http().delete(path).status_code == 204
    assert service.http().get(path).status_code == 404
    assert service.http(token).get(path).status_code == 401


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": "x" * 129}, "/name"),
        ({"name": "x", "endpoint_id": "12"}, "/endpoint_id"),
        ({"name": "x", "shared_with": ["ada"]}, "/shared_with/0"),
        ({"name": "x", "allowed_functions": ["12"]}, "/allowed_functions/0"),
        ({"name": "x", "public": "yes"}, "/public"),
    ],
)
def test_a_wrong_registration_is_refused_with_the_place(
    service: RunningService, body: dict[str, Any], pointer: str
) -> None:
    answer = service.http().post(ENDPOINTS, json=body)
    assert answer.status_code == 422
    assert pointer in {each["pointer"] for each in answer.json()["errors"]}


def test_an_unknown_endpoint_is_not_found(service: RunningService) -> None:
    for endpoint_id in (str(uuid.uuid4()), "nonsense"):
        answer = service.http().get(f"{ENDPOINTS}/{endpoint_id}")
        assert answer.status_code == 404
        assert endpoint_id in answer.json()["detail"]
