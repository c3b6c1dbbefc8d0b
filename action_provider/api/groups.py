"""Groups of users: a group is there as long as somebody is in it. Who is in which is kept with the users."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from msgspec import structs
from starlette.responses import Response

from headrace.action_provider.api.users import user_of
from headrace.action_provider.auth.callers import user_key
from headrace.action_provider.auth.withdrawal import end_lost_sessions
from headrace.action_provider.errors import NotFound
from headrace.action_provider.http import Call, Operation, no_content, reply
from headrace.action_provider.state import Service
from headrace.schemas import SchemaViolation, validate

GROUP_URN: Final = "urn:headrace:group:"


async def list_groups(call: Call) -> Response:
    """All groups, by URN, for an administrator; else those that the caller is in."""
    found = await _members_by_group(call.service)
    shown = sorted(urn for urn in found if call.caller.admin or urn in call.caller.urns)
    return reply({"groups": [{"group": urn, "members": sorted(found[urn])} for urn in shown]})


async def add_member(call: Call) -> Response:
    """Put a user into a group; the first member makes it. Being in it already is fine."""
    urn, user = _urn(call.path("group")), await user_of(call.service, call.path("name"))
    await call.service.tables.users.change(
        user_key(user.name), lambda r: r if urn in r.groups else structs.replace(r, groups=(*r.groups, urn))
    )
    call.service.authenticators.forget()
    return no_content()


async def remove_member(call: Call) -> Response:
    """Take a user out of a group: what only the group opened closes, and the user's sessions there end."""
    urn, user = _urn(call.path("group")), await user_of(call.service, call.path("name"))
    if urn not in user.groups:
        raise NotFound(f"user {user.name!r} is not in the group {urn}")
    changed = await call.service.tables.users.change(
        user_key(user.name), lambda r: structs.replace(r, groups=tuple(each for each in r.groups if each != urn))
    )
    call.service.authenticators.forget()
    await end_lost_sessions(call.service.tables, changed)
    return no_content()


async def members_of(service: Service, urn: str) -> list[str]:
    """The names of a group's members."""
    return (await _members_by_group(service)).get(urn, [])


async def _members_by_group(service: Service) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for user in await service.tables.users.list():
        for urn in user.value.groups if user.value.removed_at is None else ():
            found[urn].append(user.value.name)
    return found


def _urn(name: str) -> str:
    """A group's URN by its name, or by itself. Raises `NotFound`."""
    urn = name if name.startswith("urn:") else GROUP_URN + name
    try:
        validate("group", {"group": urn, "members": []})
    except SchemaViolation:
        raise NotFound(f"{name[:80]!r} cannot be the name of a group") from None
    return urn


ROUTES = (
    Operation(
        method="GET",
        path="/api/v1/groups",
        handler=list_groups,
        summary="List groups and their members: all for an administrator, else your own",
        response_schema="group-list",
    ),
    Operation(
        method="PUT",
        path="/api/v1/groups/{group}/members/{name}",
        handler=add_member,
        summary="Put a user into a group",
        auth="admin",
        status=204,
    ),
    Operation(
        method="DELETE",
        path="/api/v1/groups/{group}/members/{name}",
        handler=remove_member,
        summary="Take a user out of a group; sessions that needed it end",
        auth="admin",
        status=204,
    ),
)
