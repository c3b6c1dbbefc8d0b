"""Authentication policies of endpoints: which accounts satisfy them, until when, and what the others are told."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import globus_sdk.gare
import pytest

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.auth.domains import domain_matches
from headrace.action_provider.auth.identities import Identity, Persona, several_factors
from headrace.action_provider.auth.policies import check_policy
from headrace.action_provider.errors import PolicyUnmet, answer_to
from headrace.bus.store.models import AuthenticationPolicy, EndpointRecord
from headrace.endpoint.config import EndpointConfig
from headrace.endpoint.errors import ConfigInvalid

OWNER, ADA, OTHER = "urn:headrace:user:owner", "urn:headrace:oidc:lab:user:ada", "urn:headrace:oidc:lab:user:other"


def endpoint(**policy: Any) -> EndpointRecord:
    return EndpointRecord(
        endpoint_id=uuid.uuid4(),
        name="hpc",
        owner=OWNER,
        created_at=0,
        token_id="",
        authentication_policy=AuthenticationPolicy(**policy) if policy else None,
    )


def caller(*personas: Persona, satisfies: bool | None = None) -> Caller:
    async def said(_: str) -> bool:
        return bool(satisfies)

    identity = Identity(personas=personas, satisfies=None if satisfies is None else said)
    return Caller(principal=personas[0].urn, token_id="t", urns=identity.names, identity=identity)


def persona(
    username: str = "ada@example.org", urn: str = ADA, *, age_s: float | None = None, mfa: bool = False
) -> Persona:
    at = None if age_s is None else time.time() - age_s
    return Persona(urn=urn, username=username, authenticated_at=at, mfa=mfa)


def until(who: Caller, **policy: Any) -> float | None:
    return asyncio.run(check_policy(who, endpoint(**policy)))


def refused(who: Caller, match: str, **policy: Any) -> dict[str, Any]:
    """The document of the refusal."""
    with pytest.raises(PolicyUnmet, match=match) as caught:
        until(who, **policy)
    document = answer_to(caught.value, route="/").body()
    parameters: dict[str, Any] = document["authorization_parameters"]
    return parameters


@pytest.mark.parametrize(
    ("domain", "pattern", "matches"),
    [
        ("example.org", "example.org", True),
        ("EXAMPLE.org", "Example.ORG", True),
        ("lab.example.org", "example.org", False),
        ("lab.example.org", "*.example.org", True),
        ("a.lab.example.org", "*.example.org", True),
        ("example.org", "*.example.org", False),
        ("evilexample.org", "*.example.org", False),
        ("example.org.evil.net", "example.org", False),
        ("", "*.example.org", False),
    ],
)
def test_a_domain_matches_itself_and_a_star_all_below_it(domain: str, pattern: str, matches: bool) -> None:
    assert domain_matches(domain, [pattern]) is matches


def test_without_a_policy_everybody_is_let_in() -> None:
    assert until(caller(persona(""))) is None
    assert until(Caller(principal="urn:headrace:user:ada", token_id="t")) is None


def test_any_account_of_the_person_may_satisfy_the_domains() -> None:
    both = caller(persona("ada@home.net"), persona("ada@lab.example.org", OTHER))
    assert until(both, allowed_domains=("*.example.org",)) is None
    parameters = refused(both, "sign in with an account of example.org", allowed_domains=("example.org", "*.edu"))
    assert parameters["session_required_single_domain"] == ["example.org"]


def test_excluded_domains_exclude_accounts_and_not_persons() -> None:
    assert until(caller(persona("a@guest.org"), persona("a@b.org", OTHER)), excluded_domains=("guest.org",)) is None
    refused(caller(persona("a@guest.org")), "of another domain", excluded_domains=("guest.org",))
    refused(caller(persona("a@x.guest.org")), "account", allowed_domains=("*.org",), excluded_domains=("*.guest.org",))


def test_an_account_without_a_domain_satisfies_no_rule_of_domains() -> None:
    for rule in ({"allowed_domains": ("example.org",)}, {"excluded_domains": ("example.org",)}):
        refused(caller(persona("ada")), "none with a domain|ada", **rule)


def test_the_age_counts_for_the_account_that_satisfies_the_rest() -> None:
    rules: dict[str, Any] = {"allowed_domains": ("example.org",), "authentication_assurance_timeout": 3600.0}
    found = until(caller(persona(age_s=600)), **rules)
    assert found == pytest.approx(time.time() + 3000, abs=30)
    fresh_elsewhere = caller(persona("ada@home.net", age_s=1), persona(urn=OTHER, age_s=4000))
    assert refused(fresh_elsewhere, "within the last 3600 s", **rules)["prompt"] == "login"
    refused(caller(persona()), "sign in again", **rules)


def test_a_second_factor_is_one_of_the_account_that_satisfies_the_rest() -> None:
    assert until(caller(persona(mfa=True)), required_mfa=True) is None
    parameters = refused(caller(persona()), "second factor", required_mfa=True)
    assert parameters["session_required_mfa"] is True
    assert several_factors(["pwd", "mfa"], None)
    assert several_factors(None, "https://refeds.org/profile/mfa")
    assert not several_factors(["pwd"], "urn:mace:incommon:iap:silver")


def test_a_policy_of_globus_auth_is_left_to_globus_auth() -> None:
    policy = str(uuid.uuid4())
    assert until(caller(persona(), satisfies=True), policy_id=policy) is None
    assert refused(caller(persona(), satisfies=False), policy, policy_id=policy)["session_required_policies"] == [
        policy
    ]
    refused(caller(persona()), "only Globus Auth", policy_id=policy)


def test_tokens_of_this_service_satisfy_no_policy_but_the_owner_and_the_endpoint_need_not() -> None:
    refused(Caller(principal="urn:headrace:user:ada", token_id="t"), "do not say how", required_mfa=True)
    assert until(Caller(principal=OWNER, token_id="t"), required_mfa=True) is None
    asked = endpoint(required_mfa=True)
    itself = Caller(principal=OWNER, token_id="t", endpoint_id=asked.endpoint_id)
    assert asyncio.run(check_policy(itself, asked)) is None


def test_what_is_asked_for_is_in_the_form_that_clients_of_globus_understand() -> None:
    with pytest.raises(PolicyUnmet) as caught:
        until(caller(persona("a@b.c")), allowed_domains=("example.org",))
    read = globus_sdk.gare.to_gare(answer_to(caught.value, route="/").body())
    assert read is not None
    assert read.authorization_parameters.session_required_single_domain == ["example.org"]


def test_a_policy_is_written_in_config_yaml_or_named_as_in_globus_compute() -> None:
    text = "authentication_policy:\n  allowed_domains: [example.org]\n  authentication_assurance_timeout: 3600\n"
    assert EndpointConfig.parse(text).authentication_policy == {
        "allowed_domains": ["example.org"],
        "authentication_assurance_timeout": 3600,
    }
    named = EndpointConfig.parse("authentication_policy: 7F9C24E8-3B12-4FEF-91E0-1B2C3D4E5F60")
    assert named.authentication_policy == {"policy_id": "7f9c24e8-3b12-4fef-91e0-1b2c3d4e5f60"}
    for wrong, said in (
        ("authentication_policy: some", "not a 'uuid'"),
        ("authentication_policy:\n  alowed_domains: [a.b]", "did you mean 'allowed_domains'"),
        ("authentication_policy:\n  allowed_domains: [a b]", "line 2"),
    ):
        with pytest.raises(ConfigInvalid, match=said):
            EndpointConfig.parse(wrong)
