"""Credentials with which programs publish to one bus straight over NATS, and do nothing else."""

from __future__ import annotations

import time
import uuid
from typing import Any
from uuid import UUID

from starlette.responses import Response

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.api.bus_access import bus_of, check_right
from headrace.action_provider.auth.withdrawal import end_sessions, keep_session, user_key
from headrace.action_provider.errors import NotFound
from headrace.action_provider.http import Call, Operation, no_content, reply
from headrace.action_provider.routing import authenticate, bearer_of
from headrace.bus.installation.credentials import creds_file
from headrace.bus.names import publishing_subject
from headrace.bus.store.models import SessionRecord

_DEFAULT_S = 86_400.0
_NOWHERE = UUID(int=0)


async def create(call: Call) -> Response:
    """Make a credential with which a program publishes to a bus over NATS, in the caller's name. It is shown only now.

    It ends with the token that asked for it, and is worth nothing where the caller may publish no more.
    """
    body, service, caller = call.body or {}, call.service, call.caller
    bus = await check_right(service, caller, call.path("name"), "publish", lasting=True)
    ttl_s = caller.at_most_s(body.get("ttl_s", _DEFAULT_S))
    session_id, now = uuid.uuid4().hex, time.time()
    credentials = service.minter.publisher_user(bus, session_id, ttl_s)
    session = SessionRecord(
        session_id=session_id,
        kind="publisher",
        principal=caller.principal,
        endpoint_id=_NOWHERE,
        pool="",
        token_id=caller.token_id,
        user_key=user_key(credentials),
        expires_at=now + ttl_s,
        may_submit=False,
        bus=bus,
        source=body.get("source") or "",
        label=body.get("label") or "",
        created_at=now,
        # Of another system: what the sessions are looked through for when something is withdrawn.
        urns=tuple(sorted({caller.principal, *caller.linked})) if caller.is_foreign else (),
    )
    if caller.is_foreign:
        service.live_tokens.hold(bearer_of(call.request), caller, until=session.expires_at)
    await keep_session(service.tables, session)
    # Once more, for whoever withdrew the token while this was being recorded.
    service.authenticators.forget(bearer_of(call.request))
    await authenticate(call.request, service)
    service.metrics.sessions.labels("publisher").inc()
    made = {
        **_described(session),
        "nats_urls": service.settings.edge_urls,
        "inbox_prefix": credentials.inbox_prefix,
        "creds": creds_file(credentials),
    }
    return reply(made, 201)


async def list_credentials(call: Call) -> Response:
    """The credentials of a bus that are good: the caller's own, and all of them for its owner and administrators."""
    found = [session for session in await _of_bus(call) if await _sees(call, session)]
    found.sort(key=lambda session: -session.created_at)
    return reply({"credentials": [_described(session) for session in found]})


async def delete(call: Call) -> Response:
    """Withdraw a credential: its connections end, and what it publishes is refused."""
    wanted = call.path("credential_id")
    found = next((each for each in await _of_bus(call) if each.session_id == wanted), None)
    if found is None or not await _sees(call, found):
        raise NotFound(f"there is no credential {wanted[:80]!r} of yours for this bus")
    await end_sessions(call.service.tables, lambda session: session.session_id == wanted)
    return no_content()


async def _of_bus(call: Call) -> list[SessionRecord]:
    bus = call.path("name")
    sessions = (record.value for record in await call.service.tables.sessions.list())
    return [session for session in sessions if session.kind == "publisher" and session.bus == bus]


async def _sees(call: Call, session: SessionRecord) -> bool:
    caller = call.caller
    if caller.admin or caller.is_(session.principal):
        return True
    return caller.is_((await bus_of(call.service, session.bus)).owner)


def _described(session: SessionRecord) -> dict[str, Any]:
    return {
        "credential_id": session.session_id,
        "bus": session.bus,
        "principal": session.principal,
        "label": session.label,
        "source": session.source,
        "subject": publishing_subject(session.bus, session.session_id),
        "created_at": timestamp(session.created_at),
        "expires_at": timestamp(session.expires_at),
    }


_PATH = "/api/v1/buses/{name}/credentials"

ROUTES = (
    Operation(
        method="POST",
        path=_PATH,
        handler=create,
        summary="Make a credential for publishing to a bus over NATS",
        request_schema="bus-credential-request",
        response_schema="bus-credential-created",
        status=201,
        body_required=False,
    ),
    Operation(
        method="GET",
        path=_PATH,
        handler=list_credentials,
        summary="List the credentials for publishing to a bus over NATS",
        response_schema="bus-credential-list",
    ),
    Operation(
        method="DELETE",
        path=f"{_PATH}/{{credential_id}}",
        handler=delete,
        summary="Withdraw a credential for publishing over NATS",
        status=204,
    ),
)
