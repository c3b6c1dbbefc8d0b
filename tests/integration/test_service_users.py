"""Users and tokens over HTTP."""

from __future__ import annotations

import pytest
from service import RunningService
from waiting import eventually

from headrace.bus.nats.connection import Connection
from headrace.bus.store.tables import Tables

USERS, TOKENS, WHOAMI = "/api/v1/users", "/api/v1/tokens", "/api/v1/whoami"


def test_a_token_says_who_its_holder_is(service: RunningService) -> None:
    token = service.add_user("ada", ("urn:headrace:group:lab",))
    me = service.http(token).get(WHOAMI).json()
    assert me["principal"] == "urn:headrace:user:ada"
    assert me["groups"] == ["urn:headrace:group:lab"]
    assert me["admin"] is False


def test_only_an_administrator_manages_users(service: RunningService) -> None:
    user = service.http(service.add_user("plain"))
    assert user.get(USERS).status_code == 403
    assert user.post(USERS, json={"name": "friend"}).status_code == 403
    assert user.delete(f"{USERS}/ada").status_code == 403
    assert user.post(TOKENS, json={"user": "admin"}).status_code == 403
    assert user.get(TOKENS, params={"user": "*"}).status_code == 403


def test_a_user_name_is_taken_once(service: RunningService) -> None:
    assert service.http().post(USERS, json={"name": "twin"}).status_code == 201
    answer = service.http().post(USERS, json={"name": "twin"})
    assert answer.status_code == 409
    assert "'twin' already" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["", "Ada", "a b", "a/b", "../admin", "*", "x" * 65])
def test_a_user_name_is_a_plain_word(service: RunningService, name: str) -> None:
    assert service.http().post(USERS, json={"name": name}).status_code == 422


def test_a_user_manages_its_own_tokens_and_no_others(service: RunningService) -> None:
    one, two = service.http(service.add_user("one")), service.http(service.add_user("two"))
    made = one.post(TOKENS, json={"label": "laptop", "expires_in_s": 3600}).json()
    assert {each["token_id"] for each in one.get(TOKENS).json()["tokens"]} >= {made["token_id"]}
    assert made["token_id"] not in {each["token_id"] for each in two.get(TOKENS).json()["tokens"]}
    assert two.delete(f"{TOKENS}/{made['token_id']}").status_code == 404
    assert one.delete(f"{TOKENS}/{made['token_id']}").status_code == 204
    assert service.http(made["token"]).get(WHOAMI).status_code == 401


def test_lists_show_nothing_that_makes_a_token_valid(service: RunningService) -> None:
    token = service.http().post(TOKENS, json={}).json()["token"]
    shown = service.http().get(TOKENS, params={"user": "*"}).text
    assert token not in shown
    assert token.rsplit("_", 1)[-1] not in shown
    assert "sha256" not in shown


def test_a_removed_user_is_out_at_once_and_stays_so_with_its_old_token_when_it_is_added_again(
    service: RunningService,
) -> None:
    old = service.add_user("leaver")
    assert service.http(old).get(WHOAMI).status_code == 200
    assert service.http().delete(f"{USERS}/leaver").status_code == 204
    assert service.http(old).get(WHOAMI).status_code == 401
    assert service.http().post(USERS, json={"name": "leaver"}).status_code == 409
    assert service.http().post(USERS, json={"name": "leaver", "again": True}).status_code == 201
    new = service.http().post("/api/v1/tokens", json={"user": "leaver"}).json()["token"]
    assert service.http(new).get(WHOAMI).status_code == 200
    assert service.http(old).get(WHOAMI).status_code == 401


def test_the_first_administrator_cannot_be_removed(service: RunningService) -> None:
    assert service.http().delete(f"{USERS}/admin").status_code == 409


def test_a_token_that_another_replica_revoked_dies_within_two_seconds(service: RunningService) -> None:
    token = service.add_user("elsewhere")
    client = service.http(token)
    assert client.get(WHOAMI).status_code == 200

    async def revoke(connection: Connection) -> None:
        await Tables.on(connection).tokens.delete(token.split("_")[1])

    service.bus(revoke)
    eventually(lambda: client.get(WHOAMI).status_code == 401, 2)


def test_only_hashes_of_tokens_are_stored(service: RunningService) -> None:
    token = service.add_user("hashed")

    async def raw(connection: Connection) -> bytes:
        stored = await connection.read_last("KV_tokens", f"$KV.tokens.{token.split('_')[1]}")
        assert stored is not None
        return stored.data

    assert token.rsplit("_", 1)[-1].encode() not in service.bus(raw)


def test_a_wrong_secret_with_a_known_id_is_not_let_in(service: RunningService) -> None:
    token = service.add_user("guessed")
    forged = token[:-1] + ("A" if token[-1] != "A" else "B")
    assert service.http(forged).get(WHOAMI).status_code == 401
