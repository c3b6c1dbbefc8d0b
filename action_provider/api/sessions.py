"""Sessions and grants: what an SDK needs to speak to the bus by itself, for a while."""

from __future__ import annotations

import time
import uuid
from uuid import UUID

from starlette.responses import Response

from headrace.action_provider.api.access import check_allowed, chosen_endpoint, endpoint_for, function_for
from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.auth.policies import check_policy
from headrace.action_provider.auth.withdrawal import keep_session, user_key
from headrace.action_provider.errors import refused
from headrace.action_provider.http import Call, Operation, reply
from headrace.action_provider.protocol import PROTOCOL, service_version
from headrace.action_provider.routing import authenticate, bearer_of
from headrace.action_provider.wishes import pool_for
from headrace.bus.errors import RequirementsInvalid
from headrace.bus.functions.requirements import Needs
from headrace.bus.keys import bundle_key, function_grant
from headrace.bus.names import DEFAULT_POOL
from headrace.bus.store.models import EndpointRecord, SessionRecord
from headrace.bus.urns import is_globus_group

_SLACK_S = 60
"""A bundle that leaves in a credential's last moment may be stored a little later."""


async def open_session(call: Call) -> Response:
    """Hand out a short-lived credential for one endpoint's pool, and the key that signs bundles for it."""
    body, service, caller = call.body, call.service, call.caller
    endpoint_id = UUID(body["endpoint_id"]) if body.get("endpoint_id") else None
    endpoint = await chosen_endpoint(service, caller, endpoint_id)
    pool = await pool_for(
        service,
        caller.principal,
        endpoint,
        body.get("user_endpoint_config"),
        runtime={"python": body["python_version"], "headrace": body["sdk_version"]},
        wanted=body.get("wanted", True),
        environment=_environment(body.get("environment") or ""),
        accounts=caller.accounts,
    )
    ttl_s = await _time_of_life(call, endpoint)
    session_id = uuid.uuid4().hex
    expires = int(time.time() + ttl_s)
    standing = await service.backlog.standing(endpoint, caller.principal)
    credentials = service.minter.sdk_user(
        caller.principal, endpoint.endpoint_id, pool, session_id, ttl_s, may_submit=standing.may_submit
    )
    session = SessionRecord(
        session_id=session_id,
        kind="sdk",
        principal=caller.principal,
        endpoint_id=endpoint.endpoint_id,
        pool=pool,
        token_id=caller.token_id,
        user_key=user_key(credentials),
        expires_at=float(expires),
        may_submit=standing.may_submit,
        urns=await _urns(caller, endpoint),
    )
    if caller.is_foreign:
        service.live_tokens.hold(bearer_of(call.request), caller, until=float(expires))
    await keep_session(service.tables, session)
    await service.lanes.use(endpoint.endpoint_id, pool, caller.principal, for_s=ttl_s + _SLACK_S)
    # Once more, for whoever withdrew the access while the session was being recorded: also by taking the caller out of
    # a group, of which this service may not have heard.
    service.authenticators.forget(bearer_of(call.request))
    await endpoint_for(service, await authenticate(call.request, service), endpoint.endpoint_id)
    service.metrics.sessions.labels("sdk").inc()
    secret = service.keys.pool_secret(endpoint.endpoint_id, pool)
    return reply(
        {
            "session_id": session_id,
            "principal": caller.principal,
            "endpoint_id": endpoint.endpoint_id,
            "pool": pool,
            "nats_urls": service.settings.edge_urls,
            "jwt": credentials.jwt,
            "seed": credentials.seed,
            "inbox_prefix": credentials.inbox_prefix,
            "bundle_key": bundle_key(secret, caller.principal, expires + _SLACK_S),
            "bundle_key_expires": expires + _SLACK_S,
            "result_key": service.keys.result_key(endpoint.endpoint_id, caller.principal),
            "older_result_keys": service.keys.result_keys(endpoint.endpoint_id, caller.principal)[1:],
            "max_payload": service.connection.max_payload,
            "queue_limit": standing.document(),
            "expires_in_s": ttl_s,
            "protocol": PROTOCOL,
            "service_version": service_version(),
        },
        201,
    )


async def _time_of_life(call: Call, endpoint: EndpointRecord) -> float:
    """How long a session may live, in seconds: no longer than the token, and the endpoint's policy is met."""
    settings, caller = call.service.settings, call.caller
    wanted_s = settings.session_ttl_s
    if caller.is_foreign:
        wanted_s = min(wanted_s, settings.auth.session_ttl_s)
    met_until = await check_policy(caller, endpoint)
    if met_until is not None:
        wanted_s = max(1.0, min(wanted_s, met_until - time.time()))
    return caller.at_most_s(wanted_s)


async def _urns(caller: Caller, endpoint: EndpointRecord) -> tuple[str, ...]:
    """By which names of another system a caller may use an endpoint: what the sessions are looked through for when
    something is withdrawn."""
    if not caller.is_foreign:
        return ()
    shared = () if endpoint.is_public else await caller.among((endpoint.owner, *endpoint.guests))
    return tuple(sorted({caller.principal, *caller.linked, *filter(is_globus_group, shared)}))


async def grant_function(call: Call) -> Response:
    """State, under the pool's secret, that the caller may run the function there."""
    service, caller = call.service, call.caller
    endpoint = await endpoint_for(service, caller, call.path_id("endpoint_id"))
    function = await function_for(service, caller, UUID(call.body["function_id"]))
    check_allowed(endpoint, function)
    secret = service.keys.pool_secret(endpoint.endpoint_id, call.body.get("pool") or DEFAULT_POOL)
    expires = int(time.time() + service.settings.grant_ttl_s)
    grant = function_grant(secret, function.function_id, caller.principal, expires)
    return reply(
        {
            "function_id": function.function_id,
            "grant": grant,
            "grant_expires": expires,
            "environment": function.needs.text,
        }
    )


def _environment(text: str) -> str:
    try:
        return Needs.of_text(text).text
    except RequirementsInvalid as error:
        raise refused("/environment", str(error)) from None


ROUTES = (
    Operation(
        method="POST",
        path="/api/v1/sessions",
        handler=open_session,
        summary="Open a session: a short-lived credential for the bus",
        request_schema="session-request",
        response_schema="session",
        status=201,
        speaks_protocol=True,
    ),
    Operation(
        method="POST",
        path="/api/v1/endpoints/{endpoint_id}/function-grants",
        handler=grant_function,
        summary="Get the proof that you may run a function on an endpoint",
        request_schema="function-grant-request",
        response_schema="function-grant",
    ),
)
