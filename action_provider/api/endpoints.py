"""Endpoints: register, change, list, read, delete."""

from __future__ import annotations

import hashlib
import time
import uuid
from typing import Any
from uuid import UUID

import msgspec
from starlette.responses import Response

from headrace.action_provider.api.access import endpoints_of, own_endpoint, seen_endpoint, timestamp
from headrace.action_provider.api.pool_states import manager_states, pool_states
from headrace.action_provider.auth.tokens import new_token
from headrace.action_provider.auth.withdrawal import end_sessions, end_strangers_sessions
from headrace.action_provider.errors import Conflict
from headrace.action_provider.http import Call, Operation, no_content, reply
from headrace.action_provider.removals import end_tasks_of_endpoint, is_back
from headrace.action_provider.state import Service
from headrace.bus.errors import RecordConflict
from headrace.bus.store.models import PUBLIC, AuthenticationPolicy, EndpointNameRecord, EndpointRecord, QueueLimits

_REGISTRATION_S = 60.0
"""No registration takes so long."""


async def register(call: Call) -> Response:
    """Register an endpoint, or register one's own again: what the body leaves out stays, the old token ends."""
    body, owner = call.body, call.caller.principal
    endpoint_id = UUID(body["endpoint_id"]) if body.get("endpoint_id") else uuid.uuid4()
    endpoints = call.service.tables.endpoints
    found = await endpoints.get(endpoint_id.hex)
    if found is not None and not call.caller.is_(found.value.owner):
        raise Conflict(f"the endpoint id {endpoint_id} is taken; leave it out to get a new one")
    if found is not None:
        # It stays with the identity that it was registered with, whichever of theirs somebody comes with.
        owner = found.value.owner
    await _claim_name(call.service, owner, body["name"], endpoint_id)
    token = new_token(principal=owner, endpoint_id=endpoint_id, label=f"endpoint {body['name']}"[:128])
    await call.service.tables.tokens.create(token.record.token_id, token.record)
    if found is None:
        fresh = EndpointRecord(
            endpoint_id=endpoint_id, name=body["name"], owner=owner, created_at=time.time(), token_id=""
        )
        if body.get("endpoint_id"):
            await is_back(call.service, endpoint_id)
        await endpoints.create(endpoint_id.hex, _changed(fresh, body, token.record.token_id))
    else:
        changed = await endpoints.update(found, _changed(found.value, body, token.record.token_id))
        await _end_what_lost_its_right(call.service, found.value, changed.value)
        await _withdraw_token(call.service, found.value.token_id)
        # Who had the old token may know the names of its lanes.
        await call.service.lanes.rename(endpoint_id)
        await _release_name(call.service, found.value, unless=body["name"])
    return reply({"endpoint_id": endpoint_id, "endpoint_token": token.text}, 201)


async def change(call: Call) -> Response:
    """Change name, sharing or allow list; what the body leaves out stays."""
    endpoint = await own_endpoint(call)
    name = call.body.get("name", endpoint.name)
    await _claim_name(call.service, endpoint.owner, name, endpoint.endpoint_id)
    changed = await call.service.tables.endpoints.change(
        endpoint.endpoint_id.hex, lambda record: _changed(record, call.body, record.token_id)
    )
    await _release_name(call.service, endpoint, unless=name)
    await _end_what_lost_its_right(call.service, endpoint, changed)
    return reply(described(changed))


async def list_endpoints(call: Call) -> Response:
    """All endpoints that the caller may use, by name."""
    online = await call.service.tables.presence.online()
    usable = await endpoints_of(call.service, call.caller)
    return reply({"endpoints": [{**described(e), "status": _word(e.endpoint_id in online)} for e in usable]})


async def get(call: Call) -> Response:
    """One endpoint."""
    return reply(described(await seen_endpoint(call.service, call.caller, call.path_id("endpoint_id"))))


async def status(call: Call) -> Response:
    """Whether an endpoint gives signs of life, and what its pools do."""
    endpoint = await seen_endpoint(call.service, call.caller, call.path_id("endpoint_id"))
    found = await call.service.tables.presence.of(endpoint.endpoint_id)
    answer: dict[str, Any] = {"endpoint_id": endpoint.endpoint_id, "name": endpoint.name, "status": _word(bool(found))}
    if not found:
        return reply({**answer, "pools": []})
    presence = found[0]
    return reply(
        {
            **answer,
            "host": presence.host,
            "python_version": presence.python_version,
            "headrace_version": presence.headrace_version,
            "seen_at": timestamp(presence.seen_at),
            "pools": pool_states(call, endpoint, found),
            **manager_states(call, endpoint, found),
        }
    )


async def delete(call: Call) -> Response:
    """Remove an endpoint: its token ends, and its tasks that have no result are cancelled. Results stay."""
    await remove(call.service, await own_endpoint(call))
    return no_content()


async def remove(service: Service, endpoint: EndpointRecord) -> None:
    """Remove an endpoint. Raises `BusUnavailable`."""
    key = endpoint.endpoint_id.hex
    await service.tables.endpoints.delete(key)
    await _withdraw_token(service, endpoint.token_id)
    await _release_name(service, endpoint)
    await end_sessions(service.tables, lambda session: session.endpoint_id == endpoint.endpoint_id)
    await service.tables.presence.remove(endpoint.endpoint_id)
    await service.pools.remove(endpoint.endpoint_id)
    await service.lanes.remove(endpoint.endpoint_id)
    await end_tasks_of_endpoint(service, endpoint)


async def _end_what_lost_its_right(service: Service, before: EndpointRecord, now: EndpointRecord) -> None:
    """End the sessions of those who may not use the endpoint any more. Of another policy only those know who it is for
    how they signed in: all of its users' sessions end, and who satisfies it opens another at once."""
    await end_strangers_sessions(service.tables, now)
    if now.authentication_policy not in (None, before.authentication_policy):
        await end_sessions(
            service.tables,
            lambda session: (
                (session.kind, session.endpoint_id) == ("sdk", now.endpoint_id)
                and now.owner not in (session.principal, *session.urns)
            ),
        )


def _changed(record: EndpointRecord, body: dict[str, Any], token_id: str) -> EndpointRecord:
    changes: dict[str, Any] = {name: body[name] for name in ("name", "public", "per_user") if name in body}
    if "shared_with" in body:
        changes["shared_with"] = tuple(body["shared_with"])
    if not body.get("keep_shares"):
        changes["opened_to"] = _still_opened(record, body)
    if "authentication_policy" in body:
        policy = body["authentication_policy"]
        changes["authentication_policy"] = None if policy is None else msgspec.convert(policy, AuthenticationPolicy)
    if "queue_limits" in body:
        changes["queue_limits"] = QueueLimits(**body["queue_limits"])
    if "allowed_functions" in body:
        allowed = body["allowed_functions"]
        changes["allowed_functions"] = None if allowed is None else tuple(UUID(each) for each in allowed)
    if "allowed_function_owners" in body:
        owners = body["allowed_function_owners"]
        changes["allowed_function_owners"] = None if owners is None else tuple(owners)
    return msgspec.structs.replace(record, token_id=token_id, **changes)


def _still_opened(record: EndpointRecord, body: dict[str, Any]) -> tuple[str, ...]:
    """What a body that says who may use the endpoint leaves of what was opened by command."""
    kept_public = (PUBLIC,) if PUBLIC in record.opened_to and "public" not in body else ()
    kept = () if "shared_with" in body else (each for each in record.opened_to if each != PUBLIC)
    return (*kept, *kept_public)


async def _claim_name(service: Service, owner: str, name: str, endpoint_id: UUID) -> None:
    names, key = service.tables.endpoint_names, _name_key(owner, name)
    claim = EndpointNameRecord(endpoint_id=endpoint_id, claimed_at=time.time())
    try:
        await names.create(key, claim)
        return
    except RecordConflict:
        found = await names.get(key)
    if found is None:
        raise Conflict(f"the endpoint name {name!r} is being released at this moment; try again")
    holder = found.value.endpoint_id
    if holder == endpoint_id:
        return
    # A claim without an endpoint: its registration is under way, or a crash has left it for nothing.
    is_under_way = time.time() - found.value.claimed_at < _REGISTRATION_S
    if is_under_way or await service.tables.endpoints.get(holder.hex) is not None:
        raise Conflict(
            f"you have an endpoint named {name!r} already ({holder}); choose another name, or give that endpoint_id to"
            " register it again"
        )
    await names.update(found, claim)


async def _release_name(service: Service, endpoint: EndpointRecord, *, unless: str = "") -> None:
    if endpoint.name != unless:
        await service.tables.endpoint_names.delete(_name_key(endpoint.owner, endpoint.name))


async def _withdraw_token(service: Service, token_id: str) -> None:
    await service.tables.tokens.delete(token_id)
    service.authenticators.forget()
    await end_sessions(service.tables, lambda session: session.token_id == token_id)


def _name_key(owner: str, name: str) -> str:
    return hashlib.sha256(f"{owner}\x00{name}".encode()).hexdigest()


def _word(online: bool) -> str:
    return "online" if online else "offline"


def described(endpoint: EndpointRecord) -> dict[str, Any]:
    """An endpoint as the API shows it."""
    return {
        "endpoint_id": endpoint.endpoint_id,
        "name": endpoint.name,
        "owner": endpoint.owner,
        "public": endpoint.is_public,
        "shared_with": endpoint.guests,
        "allowed_functions": endpoint.allowed_functions,
        "allowed_function_owners": endpoint.allowed_function_owners,
        "per_user": endpoint.per_user,
        "authentication_policy": endpoint.authentication_policy,
        "created_at": timestamp(endpoint.created_at),
        "queue_limits": msgspec.structs.asdict(endpoint.queue_limits),
    }


_PATH = "/api/v1/endpoints/{endpoint_id}"

ROUTES = (
    Operation(
        method="POST",
        path="/api/v1/endpoints",
        handler=register,
        summary="Register an endpoint, or register your own again",
        request_schema="endpoint-registration",
        response_schema="endpoint-registered",
        status=201,
    ),
    Operation(
        method="GET",
        path="/api/v1/endpoints",
        handler=list_endpoints,
        summary="List the endpoints that you may use",
        response_schema="endpoint-list",
    ),
    Operation(
        method="GET", path=_PATH, handler=get, summary="Read an endpoint", response_schema="endpoint", auth="either"
    ),
    Operation(
        method="PATCH",
        path=_PATH,
        handler=change,
        summary="Change an endpoint's name, sharing or allow list",
        request_schema="endpoint-change",
        response_schema="endpoint",
    ),
    Operation(
        method="DELETE",
        path=_PATH,
        handler=delete,
        summary="Delete an endpoint of your own; its unfinished tasks are cancelled",
        status=204,
        auth="either",
    ),
    Operation(
        method="GET",
        path=f"{_PATH}/status",
        handler=status,
        summary="Whether an endpoint is online, and what its pools do",
        response_schema="endpoint-status",
        auth="either",
    ),
)
