"""Users of Globus Auth and of an OpenID Connect issuer, at the doors of a running service."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fake_globus import CONSENT_NEEDED, FakeGlobus, identity_of, urn_of
from fake_issuer import FakeIssuer
from live_sessions import SDK, ends_within, is_let_in, open_session
from service import RunningService, running_service
from waiting import eventually

from headrace.action_provider.auth.settings import Admission, AuthSettings
from headrace.bus.urns import canonical_set

ADA, ADAS_OTHER, BEN, ROOT = "ada@example.org", "ada@lab.example.com", "ben@example.org", "root@example.org"
STRANGER = "mallory@elsewhere.net"
ACTIONS = "/actions/compute/v3"
SOURCE = {"name": "f", "source": "def f(x):\n    return x\n", "python_version": "3.11.0"}


@pytest.fixture(scope="module")
def service(
    globus: FakeGlobus, issuer: FakeIssuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    admission = Admission(domains=("example.org", "*.example.com"))
    auth = AuthSettings(
        globus=globus.settings(admission=admission, believe_s=0.2, groups_s=0.2, try_s=1.0),
        oidc=(issuer.settings(name="lab"),),
        admins=canonical_set([urn_of(ROOT).upper()]),
        watch_s=0.2,
    )
    with running_service(tmp_path_factory.mktemp("service"), auth=auth, token_cache_s=0.1) as running:
        yield running


@pytest.fixture(autouse=True)
def as_usual(globus: FakeGlobus) -> None:
    globus.status = 200


def whoami(service: RunningService, token: str) -> dict[str, Any]:
    answer = service.http(token).get("/api/v1/whoami")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def in_capitals(username: str) -> str:
    """An identity's URN with the UUID as others may write it."""
    return urn_of(username).replace(identity_of(username), identity_of(username).upper())


def refused(answer: httpx.Response, status: int, text: str = "") -> None:
    assert answer.status_code == status, answer.text
    assert text in answer.json()["detail"]


def add_function(service: RunningService, token: str) -> str:
    answer = service.http(token).post("/api/v1/functions", json=SOURCE)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["function_id"])


def share(service: RunningService, token: str, endpoint_id: str, guest: str) -> None:
    answer = service.http(token).post(f"/api/v1/endpoints/{endpoint_id}/shares", json={"with": guest})
    assert answer.status_code == 200, answer.text


def test_each_system_tells_who_somebody_is(service: RunningService, globus: FakeGlobus, issuer: FakeIssuer) -> None:
    ada = whoami(service, globus.token(ADA, linked=(ADAS_OTHER,)))
    assert (ada["principal"], ada["linked"], ada["admin"]) == (urn_of(ADA), [urn_of(ADAS_OTHER)], False)
    grace = whoami(service, issuer.token(sub="grace", groups=["lab"]))
    assert grace["principal"] == "urn:headrace:oidc:lab:user:grace"
    assert grace["groups"] == ["urn:headrace:oidc:lab:group:lab"]
    assert whoami(service, service.token)["principal"] == "urn:headrace:user:admin"


def test_what_is_no_good_is_401_and_what_is_for_others_is_403(
    service: RunningService, globus: FakeGlobus, issuer: FakeIssuer
) -> None:
    for token in ("AgNobodyKnowsThis", issuer.token(exp=time.time() - 60), issuer.token().replace("ey", "eyX", 1)):
        answer = service.http(token).get("/api/v1/whoami")
        refused(answer, 401)
        assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="headrace"')
    answer = service.http(globus.token(ADA, scope="openid")).get("/api/v1/whoami")
    refused(answer, 403, globus.scope)
    assert "insufficient_scope" in answer.headers["WWW-Authenticate"]
    refused(service.http(issuer.token(aud="another")).get("/api/v1/whoami"), 403, "the audience headrace")
    refused(service.http(globus.token(STRANGER)).get("/api/v1/whoami"), 403, "may not use this service")


def test_tokens_of_this_service_are_never_shown_to_others(service: RunningService, globus: FakeGlobus) -> None:
    ours = (service.token[:-1], service.token + "x", "hr_", "hrp_" + "a" * 40)
    for token in ours:
        refused(service.http(token).get("/api/v1/whoami"), 401)
    assert not globus.asked_for.keys() & set(ours)


def test_globus_away_is_503_for_its_users_and_nobody_else(service: RunningService, globus: FakeGlobus) -> None:
    globus.status = 500
    answer = service.http(globus.token(ADA)).get("/api/v1/whoami")
    refused(answer, 503, "try again")
    assert int(answer.headers["Retry-After"]) >= 1
    assert whoami(service, service.token)["admin"]


def test_administrators_are_named_by_their_identities(service: RunningService, globus: FakeGlobus) -> None:
    root = globus.token("also-root@example.org", linked=(ROOT,))
    assert whoami(service, root)["admin"]
    assert service.http(root).get("/api/v1/users").status_code == 200
    refused(service.http(globus.token(ADA)).get("/api/v1/users"), 403)


def test_what_belongs_to_one_identity_belongs_to_those_that_are_linked(
    service: RunningService, globus: FakeGlobus
) -> None:
    first, again = globus.token(ADA), globus.token(ADAS_OTHER, linked=(ADA,))
    function_id, (endpoint_id, _) = add_function(service, first), service.add_endpoint("adas", first)
    both, stranger = service.http(again), service.http(globus.token(BEN))
    assert both.get(f"/api/v1/functions/{function_id}").status_code == 200
    assert both.patch(f"/api/v1/endpoints/{endpoint_id}", json={"name": "adas own"}).status_code == 200
    assert stranger.get(f"/api/v1/functions/{function_id}").status_code == 404
    refused(stranger.get(f"/api/v1/endpoints/{endpoint_id}"), 404)
    body = {"name": "adas own", "endpoint_id": endpoint_id}
    assert both.post("/api/v1/endpoints", json=body).status_code == 201
    assert both.get(f"/api/v1/endpoints/{endpoint_id}").json()["owner"] == urn_of(ADA)
    assert both.delete(f"/api/v1/functions/{function_id}").status_code == 204


def test_an_endpoint_shared_with_any_identity_opens_sessions_for_the_person(
    service: RunningService, globus: FakeGlobus
) -> None:
    endpoint_id, _ = service.add_endpoint("shared")
    share(service, service.token, endpoint_id, in_capitals(ADAS_OTHER))
    session = open_session(service, globus.token(ADA, linked=(ADAS_OTHER,)), endpoint_id)
    assert session["principal"] == urn_of(ADA)
    assert session["expires_in_s"] <= 300
    assert service.loop.run(is_let_in(session))


def test_a_group_of_globus_opens_an_endpoint_to_its_members(service: RunningService, globus: FakeGlobus) -> None:
    group = uuid.uuid4()
    endpoint_id, _ = service.add_endpoint("of a group")
    share(service, service.token, endpoint_id, f"urn:globus:groups:id:{group}")
    member, other, silent = globus.token(ADA), globus.token(BEN), globus.token(BEN)
    globus.groups[member] = [str(group).upper()]
    globus.grants[silent] = (400, CONSENT_NEEDED)
    place = f"/api/v1/endpoints/{endpoint_id}"
    assert service.http(member).get(place).status_code == 200
    refused(service.http(other).get(place), 404)
    answer = service.http(silent).get(place)
    refused(answer, 403, "have not agreed")
    assert answer.json()["code"] == "ConsentRequired"
    assert answer.json()["required_scope"].startswith(f"{globus.scope}[")
    # A list is no place to ask: what needs the consent is left out.
    listed = service.http(silent).get("/api/v1/endpoints").json()["endpoints"]
    assert endpoint_id not in [each["endpoint_id"] for each in listed]


def test_who_leaves_a_group_of_globus_loses_the_live_session(service: RunningService, globus: FakeGlobus) -> None:
    group = str(uuid.uuid4())
    endpoint_id, _ = service.add_endpoint(f"of {group}")
    share(service, service.token, endpoint_id, f"urn:globus:groups:id:{group}")
    member = globus.token(ADA)
    globus.groups[member] = [group]
    session = open_session(service, member, endpoint_id)
    ends_within(service, session, globus.groups[member].clear, within_s=10)


def test_a_token_that_globus_withdraws_takes_its_sessions_with_it_and_no_others(
    service: RunningService, globus: FakeGlobus
) -> None:
    endpoint_id, _ = service.add_endpoint("public", public=True)
    token, other = globus.token(ADA), globus.token(ADA)
    session, theirs = open_session(service, token, endpoint_id), open_session(service, other, endpoint_id)
    ends_within(service, session, lambda: globus.revoke(token), within_s=10)
    refused(service.http(token).get("/api/v1/whoami"), 401)
    assert service.loop.run(is_let_in(theirs))


def test_a_session_stays_while_globus_does_not_answer(service: RunningService, globus: FakeGlobus) -> None:
    endpoint_id, _ = service.add_endpoint("while globus is away", public=True)
    session = open_session(service, globus.token(ADA), endpoint_id)
    globus.status = 500
    asked = globus.asked["/v2/oauth2/token/introspect"]
    eventually(lambda: globus.asked["/v2/oauth2/token/introspect"] > asked + 5, within_s=10)
    assert service.loop.run(is_let_in(session))


def test_no_session_outlives_its_token(service: RunningService, issuer: FakeIssuer) -> None:
    endpoint_id, _ = service.add_endpoint("for a while", public=True)
    session = open_session(service, issuer.token(exp=int(time.time()) + 30), endpoint_id)
    assert session["expires_in_s"] <= 30


def test_unsharing_ends_sessions_of_those_who_lost_it_and_spares_linked_identities(
    service: RunningService, globus: FakeGlobus
) -> None:
    endpoint_id, _ = service.add_endpoint("shared for a while")
    share(service, service.token, endpoint_id, urn_of(ADAS_OTHER))
    share(service, service.token, endpoint_id, urn_of(BEN))
    kept = open_session(service, globus.token(ADA, linked=(ADAS_OTHER,)), endpoint_id)
    lost = open_session(service, globus.token(BEN), endpoint_id)
    place = f"/api/v1/endpoints/{endpoint_id}/shares"
    ends_within(service, lost, lambda: service.http().delete(place, params={"with": urn_of(BEN)}))
    assert service.loop.run(is_let_in(kept))


def test_an_administrator_puts_users_of_other_systems_into_groups_and_shuts_them_out(
    service: RunningService, globus: FakeGlobus
) -> None:
    token, urn = globus.token("carl@example.org"), urn_of("carl@example.org")
    admin = service.http()
    endpoint_id, _ = service.add_endpoint("of the lab")
    assert admin.post("/api/v1/users", json={"name": in_capitals("carl@example.org")}).status_code == 201
    assert admin.put(f"/api/v1/groups/lab/members/{urn}").status_code == 204
    share(service, service.token, endpoint_id, "urn:headrace:group:lab")
    assert whoami(service, token)["groups"] == ["urn:headrace:group:lab"]
    session = open_session(service, token, endpoint_id)
    ends_within(service, session, lambda: admin.delete(f"/api/v1/users/{urn}"))
    refused(service.http(token).get("/api/v1/whoami"), 403, "was removed")
    # Whoever the person comes as.
    refused(service.http(globus.token(ADA, linked=("carl@example.org",))).get("/api/v1/whoami"), 403, "was removed")
    assert admin.post("/api/v1/users", json={"name": urn, "again": True}).status_code == 201
    eventually(lambda: service.http(token).get("/api/v1/whoami").status_code == 200, within_s=5)


def test_an_endpoint_of_a_globus_user_has_a_token_of_its_own(service: RunningService, globus: FakeGlobus) -> None:
    token = globus.token(ADA)
    endpoint_id, endpoint_token = service.add_endpoint("adas laptop", token)
    globus.revoke(token)
    place = f"/api/v1/endpoints/{endpoint_id}"
    assert service.http(endpoint_token).get(place).json()["owner"] == urn_of(ADA)
    refused(service.http(endpoint_token).get("/api/v1/whoami"), 403, "token of an endpoint")


def test_users_of_other_systems_get_no_token_of_this_one(service: RunningService, globus: FakeGlobus) -> None:
    refused(service.http(globus.token(ADA)).post("/api/v1/tokens", json={}), 403, "Globus")


def test_an_action_belongs_to_the_person_and_the_scope_is_that_of_globus(
    service: RunningService, globus: FakeGlobus
) -> None:
    assert service.http("").get(ACTIONS).json()["globus_auth_scope"] == globus.scope
    ada, ben = globus.token(ADA), globus.token(BEN)
    endpoint_id, _ = service.add_endpoint("for actions", ada)
    body = {"endpoint_id": endpoint_id, "tasks": [{"function_id": add_function(service, ada), "args": [1]}]}
    run = {
        "request_id": str(uuid.uuid4()),
        "body": body,
        "monitor_by": [in_capitals(BEN)],
    }
    started = service.http(ada).post(f"{ACTIONS}/run", json=run)
    assert started.status_code == 202, started.text
    place = f"{ACTIONS}/{started.json()['action_id']}"
    assert started.json()["creator_id"] == urn_of(ADA)
    assert service.http(ben).get(f"{place}/status").status_code == 200
    assert service.http(ben).post(f"{place}/cancel").status_code in (403, 404)
    linked = service.http(globus.token(ADAS_OTHER, linked=(ADA,)))
    assert linked.post(f"{place}/cancel").status_code == 200


def test_an_endpoint_says_how_its_users_must_have_signed_in(service: RunningService, globus: FakeGlobus) -> None:
    policy = {"allowed_domains": ["*.example.com"], "authentication_assurance_timeout": 120}
    endpoint_id, _ = service.add_endpoint("with a policy", public=True, authentication_policy=policy)
    place = f"/api/v1/endpoints/{endpoint_id}"
    of_another_domain, stale, good = globus.token(ADA), globus.token(ADAS_OTHER), globus.token(ADAS_OTHER)
    old = {"authentications": {identity_of(ADAS_OTHER): {"auth_time": int(time.time()) - 130}}}
    globus.tokens[stale]["session_info"] = old
    asked, function_id = {**SDK, "endpoint_id": endpoint_id}, service.add_function(public=True)
    for token, said in ((of_another_domain, "with an account of"), (stale, "sign in again"), (None, "")):
        user = service.add_user("somebody") if token is None else token
        assert service.http(user).get(place).json()["authentication_policy"] == policy
        answer = service.http(user).post("/api/v1/sessions", json=asked)
        refused(answer, 403, said)
        assert answer.json()["code"] == "PolicyUnmet"
        run = {
            "request_id": str(uuid.uuid4()),
            "body": {"endpoint_id": endpoint_id, "tasks": [{"function_id": function_id}]},
        }
        assert service.http(user).post(f"{ACTIONS}/run", json=run).json()["code"] == "PolicyUnmet"
    session = open_session(service, good, endpoint_id)
    assert session["expires_in_s"] <= 120
    assert open_session(service, service.token, endpoint_id)["endpoint_id"] == endpoint_id


def test_a_new_policy_ends_the_sessions_of_those_who_do_not_satisfy_it(
    service: RunningService, globus: FakeGlobus
) -> None:
    endpoint_id, _ = service.add_endpoint("with a policy later", public=True)
    session, owners = (
        open_session(service, globus.token(ADA), endpoint_id),
        open_session(service, service.token, endpoint_id),
    )
    change = {"authentication_policy": {"required_mfa": True}}
    ends_within(service, session, lambda: service.http().patch(f"/api/v1/endpoints/{endpoint_id}", json=change))
    assert service.loop.run(is_let_in(owners))


def test_a_policy_of_globus_auth_holds_by_its_id(service: RunningService, globus: FakeGlobus) -> None:
    policy = str(uuid.uuid4())
    endpoint_id, _ = service.add_endpoint("of globus", public=True, authentication_policy={"policy_id": policy})
    fresh, other = globus.token(ADA), globus.token(ADA)
    globus.policies[policy] = {fresh}
    assert open_session(service, fresh, endpoint_id)["endpoint_id"] == endpoint_id
    answer = service.http(other).post("/api/v1/sessions", json={**SDK, "endpoint_id": endpoint_id})
    refused(answer, 403, policy)
    assert answer.json()["authorization_parameters"]["session_required_policies"] == [policy]


def test_nobody_subscribes_to_events_for_an_endpoint_with_a_policy_but_its_owner(
    service: RunningService, globus: FakeGlobus
) -> None:
    policy = {"excluded_domains": ["nowhere.net"]}
    endpoint_id, _ = service.add_endpoint("for events", public=True, authentication_policy=policy)
    ada = globus.token(ADA)
    body = {"filter": {"exact": {"type": "t"}}, "function_id": add_function(service, ada), "endpoint_id": endpoint_id}
    refused(service.http(ada).post("/api/v1/subscriptions", json=body), 403, "only its owner's subscriptions")


def test_an_endpoint_with_local_users_is_told_the_user_names_of_those_who_come(
    service: RunningService, globus: FakeGlobus
) -> None:
    told, other = (
        service.add_endpoint(name, public=True, per_user=each) for name, each in (("own", True), ("one", False))
    )
    token = globus.token(ADA, linked=(ADAS_OTHER,))
    asked = {**SDK, "user_endpoint_config": {"a": 1}}
    for endpoint_id, endpoint_token in (told, other):
        answer = service.http(token).post("/api/v1/sessions", json={**asked, "endpoint_id": endpoint_id})
        assert answer.status_code == 201, answer.text
        place = f"/api/v1/endpoints/{endpoint_id}/wanted-pools"
        (pool,) = service.http(endpoint_token).get(place, params={"manager": "m"}).json()["pools"]
        expected = {urn_of(ADA): ADA, urn_of(ADAS_OTHER): ADAS_OTHER} if endpoint_id == told[0] else {}
        assert pool["accounts"] == expected
