"""What is withdrawn ends at once, also for those who are connected to the bus already."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_sessions import ends_within, is_let_in, open_session
from service import RunningService, running_service
from waiting import eventually

ABOUT = {"python_version": "3.11.7", "headrace_version": "0.1.0", "host": "h", "protocol": 1}
POOL = {"pool": "default", **ABOUT, "lanes": True}
ADA = "urn:headrace:user:ada"
LAB = "urn:headrace:group:lab"


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service")) as running:
        yield running


def test_a_revoked_token_takes_its_sessions_with_it_and_no_others(service: RunningService) -> None:
    endpoint_id, _ = service.add_endpoint(public=True)
    token, other = service.add_user("ada"), service.add_user("bob")
    session, theirs = open_session(service, token, endpoint_id), open_session(service, other, endpoint_id)
    ends_within(service, session, lambda: service.http(token).delete(f"/api/v1/tokens/{token.split('_')[1]}"))
    assert service.loop.run(is_let_in(theirs))


def test_a_removed_user_loses_its_sessions(service: RunningService) -> None:
    endpoint_id, _ = service.add_endpoint(public=True)
    session = open_session(service, service.add_user("ada"), endpoint_id)
    ends_within(service, session, lambda: service.http().delete("/api/v1/users/ada"))


def test_an_unshared_endpoint_ends_the_sessions_of_those_who_lost_it(service: RunningService) -> None:
    endpoint_id, _ = service.add_endpoint(shared_with=[ADA, LAB])
    ada, member = service.add_user("ada"), service.add_user("bob", (LAB,))
    lost, kept = open_session(service, ada, endpoint_id), open_session(service, member, endpoint_id)
    owners = open_session(service, service.token, endpoint_id)
    path = f"/api/v1/endpoints/{endpoint_id}"
    ends_within(service, lost, lambda: service.http().patch(path, json={"shared_with": [LAB]}))
    assert service.loop.run(is_let_in(kept))
    assert service.loop.run(is_let_in(owners))


def test_who_leaves_a_group_loses_what_the_group_opened(service: RunningService) -> None:
    endpoint_id, _ = service.add_endpoint(shared_with=[LAB])
    session = open_session(service, service.add_user("ada", (LAB,)), endpoint_id)
    ends_within(service, session, lambda: service.http().patch("/api/v1/users/ada", json={"groups": []}))


def test_who_is_taken_out_of_a_group_loses_what_the_group_opened(service: RunningService) -> None:
    endpoint_id, _ = service.add_endpoint()
    session_token = service.add_user("ada", (LAB,))
    service.http().post(f"/api/v1/endpoints/{endpoint_id}/shares", json={"with": LAB})
    session = open_session(service, session_token, endpoint_id)
    ends_within(service, session, lambda: service.http().delete("/api/v1/groups/lab/members/ada"))


def test_an_endpoint_unshared_by_command_ends_the_sessions_of_those_who_lost_it(service: RunningService) -> None:
    endpoint_id, _ = service.add_endpoint()
    ada = service.add_user("ada")
    shares = f"/api/v1/endpoints/{endpoint_id}/shares"
    service.http().post(shares, json={"with": "public"})
    session, owners = open_session(service, ada, endpoint_id), open_session(service, service.token, endpoint_id)
    ends_within(service, session, lambda: service.http().delete(shares, params={"with": "public"}))
    assert service.loop.run(is_let_in(owners))


def test_a_deleted_endpoint_ends_its_pool(service: RunningService) -> None:
    endpoint_id, token = service.add_endpoint()
    pool = service.http(token).post(f"/api/v1/endpoints/{endpoint_id}/pools", json=POOL).json()
    ends_within(service, pool, lambda: service.http().delete(f"/api/v1/endpoints/{endpoint_id}"))


def test_a_revoked_session_stays_out_when_the_nats_server_starts_again(service: RunningService) -> None:
    endpoint_id, _ = service.add_endpoint(public=True)
    token = service.add_user("ada")
    session = open_session(service, token, endpoint_id)
    service.http(token).delete(f"/api/v1/tokens/{token.split('_')[1]}")
    service.nats.kill()
    service.loop.run(service.nats.wait())
    service.loop.run(service.nats.start())

    # The server has to be told anew, by a service that finds it again first.
    eventually(lambda: not service.loop.run(is_let_in(session)), within_s=10)


def test_a_session_does_not_outlive_its_token(service: RunningService) -> None:
    endpoint_id, _ = service.add_endpoint()
    token = service.http().post("/api/v1/tokens", json={"expires_in_s": 30}).json()["token"]
    assert 20 < open_session(service, token, endpoint_id)["expires_in_s"] <= 30
