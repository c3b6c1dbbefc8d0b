"""Users of the built-in tokens, and their tokens."""

from __future__ import annotations

import time
from typing import Any

from msgspec import structs
from starlette.responses import Response

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.api.endpoints import remove as remove_endpoint
from headrace.action_provider.auth.callers import USER_URN, user_key, user_urn
from headrace.action_provider.auth.first_admin import ADMIN, revoke
from headrace.action_provider.auth.tokens import new_token
from headrace.action_provider.auth.withdrawal import end_lost_sessions, end_sessions
from headrace.action_provider.errors import Conflict, Forbidden, NotFound
from headrace.action_provider.http import Call, Operation, Query, no_content, reply
from headrace.action_provider.removals import (
    end_feeds_of,
    end_hooks_of,
    end_schedules_of,
    end_subscriptions_of,
    end_tasks_of_user,
)
from headrace.action_provider.state import Service
from headrace.bus.errors import RecordConflict
from headrace.bus.names import token
from headrace.bus.store.models import TokenRecord, UserRecord
from headrace.bus.urns import canonical


async def add_user(call: Call) -> Response:
    """Add a user; a token for it comes from `POST /tokens`. A name that somebody had belongs to them for ever.

    Users of other systems, by their URNs, need not be added: it is what puts them into groups.
    """
    body, users = call.body, call.service.tables.users
    name = canonical(body["name"])
    user = UserRecord(
        name=name,
        principal=name if _is_foreign(name) else user_urn(name),
        created_at=time.time(),
        groups=tuple(body.get("groups", ())),
        admin=body.get("admin", False),
    )
    try:
        await users.create(user_key(user.name), user)
    except RecordConflict:
        found = await users.get(user_key(user.name))
        if found is None or found.value.removed_at is None:
            raise Conflict(f"there is a user {user.name!r} already") from None
        if not body.get("again"):
            raise Conflict(
                f"there was a user {user.name!r}, whose functions and results the name still owns; choose another name,"
                " or say that this is the same person (`again`)"
            ) from None
        await call.service.tables.removals.delete(f"user-{token(user.principal)}")
        await users.update(found, user)
    call.service.authenticators.forget()
    return reply(_described(user), 201)


async def list_users(call: Call) -> Response:
    """All users, by name."""
    records = await call.service.tables.users.list()
    users = [record.value for record in records if record.value.removed_at is None]
    return reply({"users": [_described(user) for user in sorted(users, key=lambda user: user.name)]})


async def get_user(call: Call) -> Response:
    """One user."""
    return reply(_described(await user_of(call.service, call.path("name"))))


async def change_user(call: Call) -> Response:
    """Change groups or rights; what the body leaves out stays. Sessions that need a lost group end."""
    user = await user_of(call.service, call.path("name"))
    if user.name == ADMIN and call.body.get("admin") is False:
        raise Conflict("the first administrator stays one")
    changes = {**call.body, **({"groups": tuple(call.body["groups"])} if "groups" in call.body else {})}
    tables = call.service.tables
    changed = await tables.users.change(user_key(user.name), lambda record: structs.replace(record, **changes))
    call.service.authenticators.forget()
    await end_lost_sessions(tables, changed)
    return reply(_described(changed))


async def remove_user(call: Call) -> Response:
    """Remove a user: tokens, endpoints and subscriptions end, and queued tasks are cancelled. Functions, and what runs,
    stay. The name is not given to anybody else."""
    user = await user_of(call.service, call.path("name"))
    if user.name == ADMIN:
        raise Conflict("the first administrator cannot be removed; revoke its tokens instead")
    service, tables = call.service, call.service.tables
    # The user goes first: its tokens are worth nothing from then on, even if we get no further.
    await tables.users.change(user_key(user.name), lambda record: structs.replace(record, removed_at=time.time()))
    for record in await tables.tokens.list():
        if record.value.principal == user.principal:
            await revoke(tables, record.value)
    service.authenticators.forget()
    await end_schedules_of(service, user.principal)
    await end_subscriptions_of(service, user.principal)
    await end_hooks_of(service, user.principal)
    await end_feeds_of(service, user.principal)
    for endpoint in await tables.endpoints.list():
        if endpoint.value.owner == user.principal:
            await remove_endpoint(service, endpoint.value)
    await end_tasks_of_user(service, user.principal)
    return no_content()


async def create_token(call: Call) -> Response:
    """Create a token for oneself or, as an administrator, for any user. It is shown this once."""
    body = call.body or {}
    principal = call.caller.principal
    if body.get("user") and user_urn(body["user"]) != principal:
        if not call.caller.admin:
            raise Forbidden("only an administrator may create a token for somebody else")
        principal = (await user_of(call.service, body["user"])).principal
    if _is_foreign(principal):
        raise Forbidden(f"{principal} is a user of another system: tokens for programs come from there (Globus, OIDC)")
    expires_in_s = body.get("expires_in_s")
    expires_at = None if expires_in_s is None else time.time() + expires_in_s
    made = new_token(
        principal=principal, publishes=body.get("publishes"), label=body.get("label") or "", expires_at=expires_at
    )
    await call.service.tables.tokens.create(made.record.token_id, made.record)
    return reply({**_token_described(made.record), "token": made.text}, 201)


async def list_tokens(call: Call) -> Response:
    """The caller's tokens; all of them, or those of one user, for an administrator who asks."""
    wanted = call.query("user")
    principal = call.caller.principal if wanted is None else user_urn(wanted)
    if wanted is not None and principal != call.caller.principal and not call.caller.admin:
        raise Forbidden("only an administrator may list the tokens of others")
    records = [record.value for record in await call.service.tables.tokens.list()]
    chosen = [r for r in records if not r.revoked and (wanted == "*" or r.principal == principal)]
    chosen.sort(key=lambda record: record.created_at)
    return reply({"tokens": [_token_described(record) for record in chosen]})


async def revoke_token(call: Call) -> Response:
    """End a token of one's own or, as an administrator, any."""
    token_id = call.path("token_id")
    found = await call.service.tables.tokens.get(token_id) if token_id.isalnum() and token_id.isascii() else None
    if (
        found is None
        or found.value.revoked
        or not (call.caller.admin or found.value.principal == call.caller.principal)
    ):
        raise NotFound(f"there is no token {token_id[:80]!r} of yours")
    await revoke(call.service.tables, found.value)
    call.service.authenticators.forget()
    await end_sessions(call.service.tables, lambda session: session.token_id == token_id)
    return no_content()


async def whoami(call: Call) -> Response:
    """Who the token's holder is."""
    caller = call.caller
    return reply(
        {
            "principal": caller.principal,
            "groups": sorted(caller.urns - {caller.principal} - caller.linked),
            "linked": sorted(caller.linked),
            "admin": caller.admin,
            "token_id": caller.token_id,
        }
    )


async def user_of(service: Service, name: str) -> UserRecord:
    """A user who is there. Raises `NotFound`."""
    found = await service.tables.users.get(user_key(canonical(name))) if name else None
    if found is None or found.value.removed_at is not None:
        raise NotFound(f"there is no user {name[:80]!r}")
    return found.value


def _is_foreign(name: str) -> bool:
    """Whether it is the URN of a user of another system."""
    return name.startswith("urn:") and not name.startswith(USER_URN)


def _described(user: UserRecord) -> dict[str, Any]:
    return {
        "name": user.name,
        "principal": user.principal,
        "groups": user.groups,
        "admin": user.admin,
        "created_at": timestamp(user.created_at),
    }


def _token_described(record: TokenRecord) -> dict[str, Any]:
    return {
        "token_id": record.token_id,
        "kind": record.kind,
        "principal": record.principal,
        "label": record.label,
        "endpoint_id": record.endpoint_id,
        "publishes": record.publishes if record.kind == "publisher" else None,
        "created_at": timestamp(record.created_at),
        "expires_at": None if record.expires_at is None else timestamp(record.expires_at),
    }


ROUTES = (
    Operation(
        method="POST",
        path="/api/v1/users",
        handler=add_user,
        summary="Add a user",
        auth="admin",
        request_schema="user-request",
        response_schema="user",
        status=201,
    ),
    Operation(
        method="GET",
        path="/api/v1/users",
        handler=list_users,
        summary="List all users",
        auth="admin",
        response_schema="user-list",
    ),
    Operation(
        method="GET",
        path="/api/v1/users/{name}",
        handler=get_user,
        summary="Read a user",
        auth="admin",
        response_schema="user",
    ),
    Operation(
        method="PATCH",
        path="/api/v1/users/{name}",
        handler=change_user,
        summary="Change a user's groups or rights",
        auth="admin",
        request_schema="user-change",
        response_schema="user",
    ),
    Operation(
        method="DELETE",
        path="/api/v1/users/{name}",
        handler=remove_user,
        summary="Remove a user, with its tokens, endpoints, subscriptions and queued tasks",
        auth="admin",
        status=204,
    ),
    Operation(
        method="POST",
        path="/api/v1/tokens",
        handler=create_token,
        summary="Create a token; it is shown this once",
        request_schema="token-request",
        response_schema="token-created",
        status=201,
        body_required=False,
    ),
    Operation(
        method="GET",
        path="/api/v1/tokens",
        handler=list_tokens,
        summary="List tokens, without what makes them valid",
        response_schema="token-list",
        query=(Query(name="user", description="Whose (administrators only; `*` for all)."),),
    ),
    Operation(
        method="DELETE",
        path="/api/v1/tokens/{token_id}",
        handler=revoke_token,
        summary="Revoke a token",
        status=204,
    ),
    Operation(
        method="GET",
        path="/api/v1/whoami",
        handler=whoami,
        summary="Who you are",
        response_schema="whoami",
        for_publishers=True,
    ),
)
