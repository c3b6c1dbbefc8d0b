"""Sharing by command: whom the owner lets in besides those whom config.yaml names, and takes out again."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from headrace.action_provider.api.access import own_endpoint
from headrace.action_provider.api.endpoints import described
from headrace.action_provider.api.groups import GROUP_URN, members_of
from headrace.action_provider.api.users import user_of
from headrace.action_provider.auth.callers import USER_URN
from headrace.action_provider.auth.withdrawal import end_strangers_sessions
from headrace.action_provider.errors import Conflict, NotFound, refused
from headrace.action_provider.http import Call, Operation, Query, reply
from headrace.action_provider.state import Service
from headrace.bus.store.models import PUBLIC, EndpointRecord
from headrace.schemas import SchemaViolation, validate

MOST_GUESTS = 1000


async def share(call: Call) -> Response:
    """Let a user, a group or (`public`) everybody use an endpoint. Sharing twice is fine."""
    endpoint, guest = await own_endpoint(call), call.body["with"]
    await check_known(call.service, guest)

    def opened(record: EndpointRecord) -> EndpointRecord:
        if guest in record.opened_to:
            return record
        if len(record.opened_to) >= MOST_GUESTS:
            raise Conflict(f"endpoint {record.name!r} is shared with {MOST_GUESTS} already; share it with a group")
        return msgspec.structs.replace(record, opened_to=(*record.opened_to, guest))

    return reply(described(await call.service.tables.endpoints.change(endpoint.endpoint_id.hex, opened)))


async def unshare(call: Call) -> Response:
    """Take it back, whoever opened it: sessions of those who may not use the endpoint any more end at once."""
    endpoint, guest = await own_endpoint(call), call.query("with") or ""
    _check_form(guest)
    if guest == PUBLIC and not endpoint.is_public:
        raise NotFound(f"endpoint {endpoint.name!r} is not public")
    if guest != PUBLIC and guest not in endpoint.guests:
        raise NotFound(f"endpoint {endpoint.name!r} is not shared with {guest}")
    changed = await call.service.tables.endpoints.change(
        endpoint.endpoint_id.hex, lambda record: _without(record, guest)
    )
    await end_strangers_sessions(call.service.tables, changed)
    return reply(described(changed))


def _without(record: EndpointRecord, guest: str) -> EndpointRecord:
    changes: dict[str, Any] = {"opened_to": tuple(each for each in record.opened_to if each != guest)}
    if guest == PUBLIC:
        changes["public"] = False
    else:
        changes["shared_with"] = tuple(each for each in record.shared_with if each != guest)
    return msgspec.structs.replace(record, **changes)


async def check_known(service: Service, guest: str) -> None:
    """A name that is nobody's is a slip of the pen. Raises `NotFound`; those of other systems nobody here knows."""
    if guest.startswith(USER_URN):
        await user_of(service, guest.removeprefix(USER_URN))
    elif guest.startswith(GROUP_URN) and not await members_of(service, guest):
        raise NotFound(f"nobody is in a group {guest}; an administrator puts users into groups")


def _check_form(guest: str) -> None:
    try:
        validate("endpoint-share", {"with": guest})
    except SchemaViolation:
        raise refused("?with", f"{guest[:80]!r} is neither a URN nor `{PUBLIC}`") from None


_PATH = "/api/v1/endpoints/{endpoint_id}/shares"

ROUTES = (
    Operation(
        method="POST",
        path=_PATH,
        handler=share,
        summary="Share an endpoint with a user, a group or everybody",
        request_schema="endpoint-share",
        response_schema="endpoint",
    ),
    Operation(
        method="DELETE",
        path=_PATH,
        handler=unshare,
        summary="Take a sharing back; live sessions end",
        response_schema="endpoint",
        query=(Query(name="with", description="The URN of a user or group, or `public`.", required=True),),
    ),
)
