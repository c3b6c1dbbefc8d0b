"""Who may see and use what: strangers get "not found"; who sees a thing, but may not do this, gets "forbidden"."""

from __future__ import annotations

import datetime
from uuid import UUID

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.auth.policies import check_policy
from headrace.action_provider.errors import Conflict, ConsentRequired, Forbidden, NotFound
from headrace.action_provider.http import Call
from headrace.action_provider.state import Service
from headrace.bus.store.models import EndpointRecord, FunctionRecord


async def function_for(service: Service, caller: Caller, function_id: UUID) -> FunctionRecord:
    """A function that the caller may use: their own, or a public one. Raises `NotFound`."""
    found = await service.tables.functions.recent(function_id.hex)
    if found is None or not (found.value.public or caller.is_(found.value.owner)):
        raise NotFound(f"there is no function {function_id}, or it is not yours to use; register it first")
    return found.value


async def endpoint_for(service: Service, caller: Caller, endpoint_id: UUID) -> EndpointRecord:
    """An endpoint that the caller may use, or that the caller is. Raises `NotFound`, and `PolicyUnmet` when they have
    not signed in as the endpoint asks for."""
    endpoint = await seen_endpoint(service, caller, endpoint_id)
    await check_policy(caller, endpoint)
    return endpoint


async def seen_endpoint(service: Service, caller: Caller, endpoint_id: UUID) -> EndpointRecord:
    """An endpoint that the caller may see, however they have signed in. Raises `NotFound`."""
    found = await service.tables.endpoints.recent(endpoint_id.hex)
    if found is None or not await _sees(caller, found.value):
        raise NotFound(f"there is no endpoint {endpoint_id}, or it is not shared with you")
    return found.value


async def own_endpoint(call: Call) -> EndpointRecord:
    """The endpoint in the path, which the caller owns or is. Raises `NotFound` and `Forbidden`."""
    endpoint = await seen_endpoint(call.service, call.caller, call.path_id("endpoint_id"))
    if call.caller.endpoint_id is None and not call.caller.is_(endpoint.owner):
        raise Forbidden(f"endpoint {endpoint.name!r} belongs to somebody else; only its owner may do this")
    return endpoint


async def chosen_endpoint(service: Service, caller: Caller, endpoint_id: UUID | None) -> EndpointRecord:
    """The endpoint that was named, or the only one that the caller may use.

    Raises `NotFound` and `PolicyUnmet`, and `Conflict`, which names them, when there is none or more than one.
    """
    if endpoint_id is not None:
        return await endpoint_for(service, caller, endpoint_id)
    usable = await endpoints_of(service, caller)
    if len(usable) == 1:
        await check_policy(caller, usable[0])
        return usable[0]
    if not usable:
        raise Conflict(
            "no endpoint was named, and there is none that you may use; start one with `headrace endpoint start NAME`"
        )
    names = ", ".join(f"{endpoint.name} ({endpoint.endpoint_id})" for endpoint in usable[:20])
    raise Conflict(f"no endpoint was named, and there are {len(usable)} that you may use; name one of them: {names}")


async def endpoints_of(service: Service, caller: Caller) -> list[EndpointRecord]:
    """All endpoints that the caller may use, by name."""
    records = await service.tables.endpoints.list()
    seen = [record.value for record in records if await _lists(caller, record.value)]
    return sorted(seen, key=lambda e: (e.name, e.endpoint_id.hex))


def check_allowed(endpoint: EndpointRecord, function: FunctionRecord) -> None:
    """Raises `Forbidden` unless the endpoint's allow list has the function."""
    if not endpoint.allows(function):
        raise Forbidden(
            f"endpoint {endpoint.name!r} runs only functions of its allow list, and {function.name!r}"
            f" ({function.function_id}) is not one of them; ask its owner"
        )


def timestamp(unix_s: float) -> str:
    """A time as RFC 3339 has it, in UTC."""
    moment = datetime.datetime.fromtimestamp(unix_s, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def _sees(caller: Caller, endpoint: EndpointRecord) -> bool:
    if caller.endpoint_id is not None:
        return endpoint.endpoint_id == caller.endpoint_id
    return endpoint.is_public or bool(await caller.among((endpoint.owner, *endpoint.guests)))


async def _lists(caller: Caller, endpoint: EndpointRecord) -> bool:
    try:
        return await _sees(caller, endpoint)
    except ConsentRequired:
        # One that is shared with a group must not take all the others from whoever has not agreed to show their groups.
        return False
