"""Sharing by command, and groups."""

from __future__ import annotations

from typing import Any

from msgspec import structs
from service import RunningService

from headrace.bus.store.tables import Tables

SHARES = "/api/v1/endpoints/{}/shares"
GROUPS = "/api/v1/groups"
ADA, LAB = "urn:headrace:user:ada", "urn:headrace:group:lab"


def sees(service: RunningService, token: str, endpoint_id: str) -> bool:
    return service.http(token).get(f"/api/v1/endpoints/{endpoint_id}").status_code == 200


def test_an_owner_shares_with_a_user_a_group_and_everybody_and_takes_it_back(service: RunningService) -> None:
    ada, bob, eve = service.add_user("ada"), service.add_user("bob"), service.add_user("eve")
    service.http().put(f"{GROUPS}/lab/members/bob")
    endpoint_id, _ = service.add_endpoint("sharing-1")
    path = SHARES.format(endpoint_id)
    for guest, token in ((ADA, ada), (LAB, bob), ("public", eve)):
        assert not sees(service, token, endpoint_id)
        assert service.http().post(path, json={"with": guest}).status_code == 200
        assert service.http().post(path, json={"with": guest}).status_code == 200, "sharing twice is fine"
        assert sees(service, token, endpoint_id)
    shown = service.http().get(f"/api/v1/endpoints/{endpoint_id}").json()
    assert (shown["public"], shown["shared_with"]) == (True, [ADA, LAB])
    for guest, token in (("public", eve), (LAB, bob), (ADA, ada)):
        assert service.http().delete(path, params={"with": guest}).status_code == 200
        assert not sees(service, token, endpoint_id)
        assert service.http().delete(path, params={"with": guest}).status_code == 404


def test_only_the_owner_shares_and_only_with_those_who_exist(service: RunningService) -> None:
    endpoint_id, _ = service.add_endpoint("sharing-2", shared_with=[ADA])
    guest = service.http(service.add_user("guest"))
    path = SHARES.format(endpoint_id)
    assert guest.post(path, json={"with": "public"}).status_code == 404
    service.http().post(path, json={"with": "urn:headrace:user:guest"})
    assert guest.post(path, json={"with": "public"}).status_code == 403
    for stranger in ("urn:headrace:user:nobody", "urn:headrace:group:empty"):
        assert service.http().post(path, json={"with": stranger}).status_code == 404
    assert service.http().post(path, json={"with": "ada"}).status_code == 422
    assert service.http().delete(path, params={"with": "ada"}).status_code == 422


def test_a_start_of_the_endpoint_keeps_what_was_shared_by_command(service: RunningService) -> None:
    endpoint_id, _ = service.add_endpoint("sharing-3", shared_with=[LAB])
    service.http().post(SHARES.format(endpoint_id), json={"with": "urn:headrace:user:admin"})
    path = f"/api/v1/endpoints/{endpoint_id}"
    # What a manager says at each start.
    service.http().patch(path, json={"public": False, "shared_with": [], "keep_shares": True})
    assert service.http().get(path).json()["shared_with"] == ["urn:headrace:user:admin"]
    service.http().patch(path, json={"shared_with": [LAB]})
    assert service.http().get(path).json()["shared_with"] == [LAB], "who says it all without more, means it"


def test_what_config_yaml_opened_can_be_taken_back_at_once(service: RunningService) -> None:
    endpoint_id, _ = service.add_endpoint("sharing-4", public=True, shared_with=[LAB])
    path = SHARES.format(endpoint_id)
    assert service.http().delete(path, params={"with": "public"}).json()["public"] is False
    assert service.http().delete(path, params={"with": LAB}).json()["shared_with"] == []


def test_an_administrator_says_who_is_in_a_group_and_members_see_it(service: RunningService) -> None:
    member, stranger = service.add_user("member"), service.add_user("stranger")
    for name in ("member", "admin", "member"):
        assert service.http().put(f"{GROUPS}/chemistry/members/{name}").status_code == 204
    group = {"group": "urn:headrace:group:chemistry", "members": ["admin", "member"]}
    assert group in service.http().get(GROUPS).json()["groups"]
    assert service.http(member).get(GROUPS).json()["groups"] == [group]
    assert service.http(stranger).get(GROUPS).json()["groups"] == []
    assert service.http(stranger).put(f"{GROUPS}/chemistry/members/stranger").status_code == 403
    assert service.http().delete(f"{GROUPS}/chemistry/members/stranger").status_code == 404
    assert service.http().put(f"{GROUPS}/chemistry/members/nobody").status_code == 404
    assert service.http().put(f"{GROUPS}/che mistry/members/member").status_code == 404
    assert service.http().delete(f"{GROUPS}/chemistry/members/member").status_code == 204
    assert service.http(member).get(GROUPS).json()["groups"] == []


def test_who_has_left_a_group_opens_no_session_though_this_service_has_not_heard_of_it(
    service: RunningService,
) -> None:
    token = service.add_user("leaver", groups=(LAB,))
    endpoint_id, _ = service.add_endpoint("sharing-5", shared_with=[LAB])
    body = {"protocol": 1, "sdk_version": "0.1.0", "python_version": "3.11.7", "endpoint_id": endpoint_id}
    assert service.http(token).post("/api/v1/sessions", json=body).status_code == 201

    async def leave(connection: Any) -> None:
        # As another service does it.
        await Tables.on(connection).users.change("leaver", lambda user: structs.replace(user, groups=()))

    service.bus(leave)

    assert service.http(token).post("/api/v1/sessions", json=body).status_code == 404
