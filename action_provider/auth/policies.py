"""Authentication policies of endpoints: not who somebody is, but how, and how long ago, they have shown it."""

from __future__ import annotations

import time
from typing import Any, NoReturn

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.auth.domains import domain_matches
from headrace.action_provider.auth.identities import Persona
from headrace.action_provider.errors import PolicyUnmet
from headrace.bus.store.models import AuthenticationPolicy, EndpointRecord


async def check_policy(caller: Caller, endpoint: EndpointRecord) -> float | None:
    """Until when the caller satisfies the endpoint's policy, in unix seconds; None is without an end.

    The owner, who could change the policy, and the endpoint itself need not. Raises `PolicyUnmet` with what to do, and
    `Unavailable` when only another system could say.
    """
    policy = endpoint.authentication_policy
    if policy is None or caller.endpoint_id is not None or caller.is_(endpoint.owner):
        return None
    if caller.identity is None:
        _refuse(endpoint, "tokens of this service do not say how you signed in: use one of Globus or OIDC", {})
    if policy.policy_id:
        await _check_elsewhere(caller, endpoint, policy.policy_id)
        return None
    return _check_here(caller.identity.personas, endpoint, policy)


async def _check_elsewhere(caller: Caller, endpoint: EndpointRecord, policy_id: str) -> None:
    satisfies = caller.identity.satisfies if caller.identity is not None else None
    if satisfies is None:
        _refuse(endpoint, "only Globus Auth knows the policy, so only its tokens can satisfy it", {})
    if not await satisfies(policy_id):
        parameters = {"session_required_policies": [policy_id], "prompt": "login"}
        _refuse(endpoint, f"sign in again so that the policy {policy_id} of Globus Auth is satisfied", parameters)


def _check_here(personas: tuple[Persona, ...], endpoint: EndpointRecord, policy: AuthenticationPolicy) -> float | None:
    """The accounts are narrowed down demand by demand; the first demand that leaves none is the one to speak of."""
    left = [each for each in personas if _of_right_domain(each, policy)]
    plain = [domain for domain in policy.allowed_domains if not domain.startswith("*.")]
    domains: dict[str, Any] = {"session_required_single_domain": plain} if plain else {}
    if not left:
        wanted = f"of {', '.join(policy.allowed_domains)}" if policy.allowed_domains else "of another domain"
        said = ", ".join(each.username for each in personas if each.username) or "none with a domain"
        _refuse(endpoint, f"sign in with an account {wanted}, or link one (your accounts: {said})", domains)
    if policy.required_mfa:
        left = [each for each in left if each.mfa]
        if not left:
            _refuse(endpoint, "sign in again with a second factor", {**domains, "session_required_mfa": True})
    age_s = policy.authentication_assurance_timeout
    if age_s is None:
        return None
    until = max((each.authenticated_at + age_s for each in left if each.authenticated_at is not None), default=0.0)
    if until <= time.time():
        _refuse(
            endpoint,
            f"you must have signed in within the last {age_s:g} s: sign in again",
            {**domains, "prompt": "login"},
        )
    return until


def _of_right_domain(persona: Persona, policy: AuthenticationPolicy) -> bool:
    """An account whose domain nobody knows satisfies nothing that is said of domains."""
    if policy.excluded_domains and (not persona.domain or domain_matches(persona.domain, policy.excluded_domains)):
        return False
    return not policy.allowed_domains or domain_matches(persona.domain, policy.allowed_domains)


def _refuse(endpoint: EndpointRecord, what: str, parameters: dict[str, Any]) -> NoReturn:
    raise PolicyUnmet(
        f"the authentication policy of endpoint {endpoint.name!r} is not met: {what}", parameters=parameters
    )
