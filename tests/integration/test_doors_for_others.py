"""All three doors for users of another system: Executor, action, event; with tokens that end meanwhile."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import globus_sdk.gare
import httpx
import pytest
from fake_globus import CONSENT_NEEDED, FakeGlobus, urn_of
from fake_issuer import FakeIssuer
from running_pool import RunningPool, running_pool
from service import RunningService, running_service
from waiting import eventually

from headrace.action_provider.auth.settings import AuthSettings
from headrace.sdk import Client, Executor, Forbidden, TokenUnavailable, Unauthorized

ADA, ADAS_OTHER, BEN = "ada@example.org", "ada@lab.example.com", "ben@example.org"
ACTIONS = "/actions/compute/v3"
DOUBLE = "def double(x):\n    return 2 * x\n"


@pytest.fixture(scope="module")
def service(
    globus: FakeGlobus, issuer: FakeIssuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    # Sessions are renewed each second, and nothing is believed for long.
    of_globus = globus.settings(believe_s=0.1, groups_s=0.1)
    auth = AuthSettings(globus=of_globus, oidc=(issuer.settings(),), session_ttl_s=2.0, watch_s=0.2)
    with running_service(tmp_path_factory.mktemp("service"), auth=auth, token_cache_s=0.1) as running:
        yield running


@pytest.fixture(scope="module")
def pool(
    service: RunningService, globus: FakeGlobus, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningPool]:
    """An endpoint that a user of Globus owns."""
    with running_pool(service, tmp_path_factory.mktemp("pool"), workers=1, owner=globus.token(ADA)) as running:
        yield running


def double_of(service: RunningService, token: str) -> str:
    body = {"name": "double", "source": DOUBLE, "python_version": "3.11.0"}
    return str(service.http(token).post("/api/v1/functions", json=body).json()["function_id"])


def ended(client: httpx.Client, action: dict[str, Any]) -> dict[str, Any]:
    """The action once it is neither ACTIVE nor INACTIVE."""
    found: dict[str, Any] = action

    def is_over() -> bool:
        found.update(client.get(f"{ACTIONS}/{action['action_id']}/status").json())
        return found["status"] in ("SUCCEEDED", "FAILED")

    eventually(is_over, within_s=10)
    return found


def test_an_executor_goes_on_while_its_tokens_end_and_others_take_their_place(
    service: RunningService, globus: FakeGlobus, pool: RunningPool
) -> None:
    tokens = [globus.token(ADA)]
    with (
        Client(service.url, lambda: f"Bearer {tokens[-1]}") as client,
        Executor(pool.endpoint_id, client=client) as executor,
    ):
        assert client.whoami()["principal"] == urn_of(ADA)
        assert executor.submit(pow, 2, 5).result(60) == 32
        asked = globus.asked["/v2/oauth2/token/introspect"]
        tokens.append(globus.token(ADA))
        globus.revoke(tokens[0])
        # Long enough for the session to be renewed with the new one.
        eventually(lambda: globus.asked["/v2/oauth2/token/introspect"] > asked + 3, within_s=10)
        assert executor.submit(pow, 2, 6).result(60) == 64
        assert client.whoami()["principal"] == urn_of(ADA)


def test_whoever_waits_hears_that_no_token_can_be_had_any_more(
    service: RunningService, globus: FakeGlobus, pool: RunningPool
) -> None:
    token = globus.token(ADA)
    go_on = threading.Event()

    def source() -> str:
        if go_on.is_set():
            raise OSError("the secret place of tokens is gone")
        return token

    with Client(service.url, source) as client:
        assert client.whoami()["principal"] == urn_of(ADA)
        go_on.set()
        with pytest.raises(TokenUnavailable, match=r"raised OSError$"):
            client.whoami()


@pytest.mark.parametrize("gives", [lambda: "", lambda: "two words", lambda: "é", lambda: 7, lambda: "a\nb"])
def test_what_is_no_token_is_not_sent(service: RunningService, gives: Callable[[], Any]) -> None:
    with Client(service.url, gives) as client, pytest.raises(TokenUnavailable):
        client.whoami()


def test_a_token_that_was_renewed_in_this_moment_is_tried(service: RunningService, globus: FakeGlobus) -> None:
    given = iter(["AgIsNoGood", globus.token(ADA)])
    with Client(service.url, lambda: next(given)) as client:
        assert client.whoami()["principal"] == urn_of(ADA)
    with Client(service.url, lambda: "AgIsNoGood") as client, pytest.raises(Unauthorized):
        client.whoami()


def test_a_consent_that_is_missing_reaches_the_program_in_a_form_for_the_library_of_globus(
    service: RunningService, globus: FakeGlobus
) -> None:
    group, token = f"urn:globus:groups:id:{uuid.uuid4()}", globus.token(BEN)
    globus.grants[token] = (400, CONSENT_NEEDED)
    endpoint_id, _ = service.add_endpoint("of a group", shared_with=[group])
    with Client(service.url, token) as client, pytest.raises(Forbidden) as caught:
        client.get_endpoint_queue(endpoint_id)
    read = globus_sdk.gare.to_gare(caught.value.document)
    assert read is not None
    scopes = read.authorization_parameters.required_scopes
    assert scopes is not None
    assert scopes[0].startswith(f"{globus.scope}[")


def test_an_action_of_a_user_of_globus_runs_at_their_endpoint(
    service: RunningService, globus: FakeGlobus, pool: RunningPool
) -> None:
    token = globus.token(ADA)
    client = service.http(token)
    body = {"endpoint_id": pool.endpoint_id, "tasks": [{"function_id": double_of(service, token), "args": [21]}]}
    started = client.post(f"{ACTIONS}/run", json={"request_id": str(uuid.uuid4()), "body": body}).json()
    action = ended(client, started)
    assert (action["status"], action["details"]["result"]) == ("SUCCEEDED", [42])
    linked = service.http(globus.token(ADAS_OTHER, linked=(ADA,)))
    assert linked.post(f"{ACTIONS}/{action['action_id']}/release").status_code == 200


def test_an_action_waits_for_the_consent_to_see_the_groups_and_goes_on_with_it(
    service: RunningService, globus: FakeGlobus, pool: RunningPool
) -> None:
    group = str(uuid.uuid4())
    owner = service.http(globus.token(ADA))
    shared = owner.post(f"/api/v1/endpoints/{pool.endpoint_id}/shares", json={"with": f"urn:globus:groups:id:{group}"})
    assert shared.status_code == 200, shared.text
    silent, member = globus.token(BEN), globus.token(BEN)
    globus.grants[silent] = (400, CONSENT_NEEDED)
    globus.groups[member] = [group]
    body = {"endpoint_id": pool.endpoint_id, "tasks": [{"function_id": double_of(service, silent), "args": [4]}]}
    run = {"request_id": str(uuid.uuid4()), "body": body}
    waiting = service.http(silent).post(f"{ACTIONS}/run", json=run)
    assert (waiting.status_code, waiting.json()["status"]) == (202, "INACTIVE")
    assert globus_sdk.gare.to_gare(waiting.json()["details"]) is not None
    client = service.http(member)
    resumed = client.post(f"{ACTIONS}/{waiting.json()['action_id']}/resume").json()
    action = ended(client, resumed)
    assert (action["status"], action["details"]["result"]) == ("SUCCEEDED", [8])


def test_an_event_runs_a_function_of_a_user_of_globus_at_an_endpoint_of_a_linked_account(
    service: RunningService, globus: FakeGlobus, pool: RunningPool
) -> None:
    client = service.http(globus.token(ADAS_OTHER, linked=(ADA,)))
    function_id = double_of(service, globus.token(ADA))
    kind = f"org.example.{uuid.uuid4().hex}"
    subscription = {
        "filter": {"exact": {"type": kind}},
        "function_id": function_id,
        "endpoint_id": pool.endpoint_id,
        "input": {"args": [3]},
    }
    made = client.post("/api/v1/subscriptions", json=subscription)
    assert made.status_code == 201, made.text
    event = {"specversion": "1.0", "type": kind, "source": "/test", "id": "1"}
    published = client.post("/api/v1/events", json=event, headers={"Content-Type": "application/cloudevents+json"})
    assert published.is_success, published.text

    def has_run() -> bool:
        tasks = client.get("/api/v1/tasks", params={"endpoint_id": pool.endpoint_id}).json()["tasks"]
        return any(each["function_id"] == function_id and each["state"] == "succeeded" for each in tasks)

    eventually(has_run, within_s=10)


def test_a_user_of_an_issuer_comes_through_a_group_of_this_service(
    service: RunningService, issuer: FakeIssuer, globus: FakeGlobus, pool: RunningPool
) -> None:
    # As long and as odd as a name may be: it is a part of subjects on the bus, of keys of records and of paths.
    name = "auth0|ü/" + "x" * 60
    token = issuer.token(sub=name)
    with Client(service.url, service.token) as admin, Client(service.url, token) as client:
        principal = client.whoami()["principal"]
        admin.create_user(principal)
        admin.add_to_group("readers", principal)
        with Client(service.url, globus.token(ADA)) as owner:
            owner.share_endpoint(pool.endpoint_id, "urn:headrace:group:readers")
        eventually(lambda: client.whoami()["groups"] == ["urn:headrace:group:readers"], within_s=5)
        with Executor(pool.endpoint_id, client=client) as executor:
            assert executor.submit(pow, 3, 3).result(60) == 27
        admin.delete_user(principal)
        with pytest.raises(Forbidden, match="was removed"):
            client.whoami()


def test_long_tokens_travel(service: RunningService, globus: FakeGlobus) -> None:
    for length in (1, 9_000, 60_000):
        answer = service.http(globus.token(ADA, length=length)).get("/api/v1/whoami")
        assert answer.status_code == 200, answer.text
    assert service.http("x" * 65_537).get("/api/v1/whoami").status_code == 401
