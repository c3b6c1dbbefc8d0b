"""Webhooks as their owners see them: create, list, read, delete, and a new secret."""

from __future__ import annotations

import time
import uuid
from typing import Any

import msgspec
from starlette.responses import Response

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.api.bus_access import check_right
from headrace.action_provider.errors import NotFound, refused
from headrace.action_provider.http import Call, Operation, no_content, reply
from headrace.bus.errors import FilterInvalid
from headrace.bus.eventing.events import DEFAULT_BUS
from headrace.bus.eventing.hooks import HookRecord, concealed, new_secret
from headrace.bus.eventing.signatures import GITHUB, SignatureForm
from headrace.bus.eventing.templates import check_variables
from headrace.bus.store.records import Record

_ONLY_MADE = ("type", "source", "subject")


async def create(call: Call) -> Response:
    """Make an address at which another system announces what happens. The secret in the answer is shown only now."""
    body = call.body
    hook_id = uuid.uuid4()
    secret = body.get("secret") or new_secret()
    record = HookRecord(
        hook_id=hook_id,
        name=body.get("name") or body["kind"],
        owner=call.caller.principal,
        kind=body["kind"],
        secret=concealed(call.service.keys, hook_id, secret),
        created_at=time.time(),
        type=body.get("type") or "",
        source=body.get("source") or "",
        subject=body.get("subject") or "",
        signature=_signature(body),
        origins=tuple(body.get("origins") or ()),
        bus=await check_right(call.service, call.caller, body.get("bus") or DEFAULT_BUS, "publish", lasting=True),
    )
    _check(record)
    await call.service.tables.hooks.create(hook_id.hex, record)
    return reply({**_described(call, record), "secret": secret}, 201)


async def list_hooks(call: Call) -> Response:
    """The caller's webhooks, newest first, without their secrets."""
    records = [r.value for r in await call.service.tables.hooks.list() if call.caller.is_(r.value.owner)]
    records.sort(key=lambda record: -record.created_at)
    return reply({"hooks": [_described(call, record) for record in records]})


async def get(call: Call) -> Response:
    """One of the caller's webhooks, without its secret."""
    return reply(_described(call, (await _own(call)).value))


async def delete(call: Call) -> Response:
    """Remove a webhook: what is sent to its address is refused. Events that came through it stay."""
    await call.service.tables.hooks.delete((await _own(call)).key)
    return no_content()


async def rotate_secret(call: Call) -> Response:
    """Give a webhook another secret, which is shown only now. The one before is worth nothing from here on."""
    found = await _own(call)
    secret = (call.body or {}).get("secret") or new_secret()
    changed = msgspec.structs.replace(found.value, secret=concealed(call.service.keys, found.value.hook_id, secret))
    await call.service.tables.hooks.update(found, changed)
    return reply({**_described(call, changed), "secret": secret})


async def _own(call: Call) -> Record[HookRecord]:
    hook_id = call.path_id("hook_id")
    found = await call.service.tables.hooks.get(hook_id.hex)
    if found is None or not call.caller.is_(found.value.owner):
        raise NotFound(f"there is no hook {hook_id} of yours")
    return found


def _signature(body: dict[str, Any]) -> SignatureForm:
    said = body.get("signature")
    if said is None:
        return GITHUB
    if body["kind"] == "github":
        raise refused("/signature", "GitHub signs in one way, which is known; leave this out")
    form = msgspec.convert(said, SignatureForm)
    if form.timestamp_header and "signed" not in said:
        form = msgspec.structs.replace(form, signed="{timestamp}.{body}")
    if problem := form.problem():
        raise refused("/signature", problem)
    return form


def _check(record: HookRecord) -> None:
    """What the schema cannot say."""
    for name in _ONLY_MADE:
        if record.kind == "cloudevents" and getattr(record, name):
            raise refused(f"/{name}", f"what comes through this kind of hook is an event, which has its own {name}")
    if record.origins and record.kind != "cloudevents":
        raise refused("/origins", "only hooks of the kind `cloudevents` have a handshake")
    try:
        check_variables(record.templates().document, "event")
    except FilterInvalid as error:
        pointer = error.pointer.removeprefix("/kwargs")
        raise FilterInvalid(f"{pointer[1:]}: {error}", pointer=pointer) from error


def _described(call: Call, record: HookRecord) -> dict[str, Any]:
    return {
        "hook_id": record.hook_id,
        "url": f"{call.service.settings.public_url.rstrip('/')}/hooks/{record.hook_id}",
        "name": record.name,
        "owner": record.owner,
        "bus": record.bus,
        "kind": record.kind,
        "type": record.type or None,
        "source": record.source or None,
        "subject": record.subject or None,
        "signature": {name: getattr(record.signature, name) for name in SignatureForm.__struct_fields__},
        "origins": list(record.origins),
        "created_at": timestamp(record.created_at),
    }


ROUTES = (
    Operation(
        method="POST",
        path="/api/v1/hooks",
        handler=create,
        summary="Make a webhook",
        request_schema="hook-request",
        response_schema="hook-created",
        status=201,
    ),
    Operation(
        method="GET",
        path="/api/v1/hooks",
        handler=list_hooks,
        summary="List your webhooks",
        response_schema="hook-list",
    ),
    Operation(
        method="GET",
        path="/api/v1/hooks/{hook_id}",
        handler=get,
        summary="Read a webhook of your own",
        response_schema="hook",
    ),
    Operation(
        method="DELETE",
        path="/api/v1/hooks/{hook_id}",
        handler=delete,
        summary="Remove a webhook of your own",
        status=204,
    ),
    Operation(
        method="POST",
        path="/api/v1/hooks/{hook_id}/secret",
        handler=rotate_secret,
        summary="Give a webhook of your own another secret",
        request_schema="hook-secret",
        response_schema="hook-created",
        body_required=False,
    ),
)
