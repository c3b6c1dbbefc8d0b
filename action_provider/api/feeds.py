"""Feeds, which administrators make: messages of another system's NATS server that become events of a bus."""

from __future__ import annotations

import itertools
import re
import time
import uuid
from typing import Any

import msgspec
from starlette.responses import Response

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.api.bus_access import check_right
from headrace.action_provider.errors import NotFound, refused
from headrace.action_provider.http import Call, Operation, no_content, reply
from headrace.bus.errors import FilterInvalid, KeysUnusable
from headrace.bus.eventing.feeds.models import FeedCredential, FeedRecord, FeedShape, FeedStatus, concealed
from headrace.bus.eventing.feeds.shaping import templates_of
from headrace.bus.eventing.templates import check_variables
from headrace.bus.installation.credentials import KeyPair
from headrace.bus.names import DEFAULT_BUS

_CREDS = re.compile(
    r"-----BEGIN NATS USER JWT-----\s*(\S+)\s*-+END NATS USER JWT-+.*?"
    r"-----BEGIN USER NKEY SEED-----\s*(\S+)\s*-+END USER NKEY SEED-+",
    re.DOTALL,
)


async def create(call: Call) -> Response:
    """Let messages of another system become events of a bus, in the caller's name. Its credential is never shown."""
    body, service = call.body, call.service
    feed_id = uuid.uuid4()
    record = FeedRecord(
        feed_id=feed_id,
        name=body.get("name") or body["subjects"][0],
        owner=call.caller.principal,
        created_at=time.time(),
        urls=tuple(body["urls"]),
        subjects=tuple(body["subjects"]),
        bus=await check_right(service, call.caller, body.get("bus") or DEFAULT_BUS, "publish", lasting=True),
        stream=body.get("stream") or "",
        start=body.get("start") or "new",
        shape=_shape(body),
        credential=_credential(call, feed_id, body),
        paused=body.get("paused", False),
    )
    _check(record)
    await service.tables.feeds.create(feed_id.hex, record)
    return reply(_described(record, None), 201)


async def list_feeds(call: Call) -> Response:
    """All feeds, newest first, without their credentials."""
    tables = call.service.tables
    records = sorted((r.value for r in await tables.feeds.list()), key=lambda record: -record.created_at)
    status = {record.key: record.value for record in await tables.feed_status.list()}
    return reply({"feeds": [_described(each, status.get(each.feed_id.hex)) for each in records]})


async def get(call: Call) -> Response:
    """One feed, and what has become of it."""
    record = await _feed(call)
    return reply(_described(record, await _status(call, record)))


async def change(call: Call) -> Response:
    """Let a feed rest or go on, or give it another address, shape or credential; the rest of it stays."""
    body, record = call.body, await _feed(call)
    changes: dict[str, Any] = {}
    if "paused" in body:
        changes["paused"] = body["paused"]
    if "urls" in body:
        changes["urls"] = tuple(body["urls"])
    if "shape" in body:
        changes["shape"] = _shape(body)
    if "credential" in body:
        changes["credential"] = _credential(call, record.feed_id, body)
    _check(msgspec.structs.replace(record, **changes))
    changed = await call.service.tables.feeds.change(
        record.feed_id.hex, lambda found: msgspec.structs.replace(found, **changes)
    )
    return reply(_described(changed, await _status(call, changed)))


async def delete(call: Call) -> Response:
    """End a feed. Events that came through it stay."""
    await call.service.tables.feeds.delete((await _feed(call)).feed_id.hex)
    return no_content()


async def _feed(call: Call) -> FeedRecord:
    feed_id = call.path_id("feed_id")
    found = await call.service.tables.feeds.get(feed_id.hex)
    if found is None:
        raise NotFound(f"there is no feed {feed_id}")
    return found.value


async def _status(call: Call, record: FeedRecord) -> FeedStatus | None:
    found = await call.service.tables.feed_status.get(record.feed_id.hex)
    return None if found is None else found.value


def _shape(body: dict[str, Any]) -> FeedShape:
    return msgspec.convert(body.get("shape") or {}, FeedShape)


def _credential(call: Call, feed_id: uuid.UUID, body: dict[str, Any]) -> bytes:
    given = body.get("credential")
    if not given:
        return b""
    kinds = [name for name in ("creds", "nkey", "user", "token") if given.get(name)]
    if len(kinds) != 1 or ("password" in given) != (kinds == ["user"]):
        raise refused("/credential", "give one of creds, nkey, user with password, and token")
    fields = {name: given[name] for name in ("user", "password", "token", "inbox_prefix") if name in given}
    if kinds == ["creds"]:
        found = _CREDS.search(given["creds"])
        if found is None:
            raise refused("/credential/creds", "this is not the text of a .creds file")
        fields |= {"jwt": found[1], "seed": found[2]}
    if kinds == ["nkey"]:
        fields["seed"] = given["nkey"].strip()
    if "seed" in fields:
        try:
            KeyPair(fields["seed"])
        except KeysUnusable:
            # Not with the reason: it may quote what was given.
            raise refused(f"/credential/{kinds[0]}", "the seed in it is none") from None
    return concealed(call.service.keys, feed_id, FeedCredential(**fields))


def _check(record: FeedRecord) -> None:
    """What the schema cannot say."""
    for one, other in itertools.combinations(record.subjects, 2):
        if _overlap(one.split("."), other.split(".")):
            raise refused("/subjects", f"{one!r} and {other!r} overlap: such a message would be two events")
    if record.start == "all" and not record.stream:
        raise refused("/start", "only a stream holds messages of the past; name it (`stream`)")
    shape = record.shape
    if shape.form == "cloudevents" and (shape.type or shape.source or shape.subject or shape.id):
        raise refused("/shape", "what is an event already has its own type, source, subject and id")
    try:
        check_variables(templates_of(record).document, "message")
    except FilterInvalid as error:
        pointer = f"/shape{error.pointer.removeprefix('/kwargs')}"
        raise FilterInvalid(f"{pointer[1:]}: {error}", pointer=pointer) from error


def _overlap(one: list[str], other: list[str]) -> bool:
    """Whether some subject fits both patterns."""
    for mine, theirs in itertools.zip_longest(one, other):
        if mine == ">" or theirs == ">":
            return mine is not None and theirs is not None
        if mine is None or theirs is None or (mine != theirs and "*" not in (mine, theirs)):
            return False
    return True


def _described(record: FeedRecord, status: FeedStatus | None) -> dict[str, Any]:
    return {
        "feed_id": record.feed_id,
        "name": record.name,
        "urls": list(record.urls),
        "subjects": list(record.subjects),
        "bus": record.bus,
        "stream": record.stream,
        "start": record.start,
        "shape": {name: getattr(record.shape, name) for name in FeedShape.__struct_fields__},
        "owner": record.owner,
        "signs_in": bool(record.credential),
        "paused": record.paused,
        "created_at": timestamp(record.created_at),
        "status": None if status is None else _shown(status),
    }


def _shown(status: FeedStatus) -> dict[str, Any]:
    shown = {name: getattr(status, name) for name in FeedStatus.__struct_fields__}
    return {**shown, "since": timestamp(status.since), "at": timestamp(status.at)}


ROUTES = (
    Operation(
        method="POST",
        path="/api/v1/feeds",
        handler=create,
        summary="Let messages of another NATS server become events",
        auth="admin",
        request_schema="feed-request",
        response_schema="feed",
        status=201,
    ),
    Operation(
        method="GET",
        path="/api/v1/feeds",
        handler=list_feeds,
        summary="List all feeds",
        auth="admin",
        response_schema="feed-list",
    ),
    Operation(
        method="GET",
        path="/api/v1/feeds/{feed_id}",
        handler=get,
        summary="Read a feed, and what has become of it",
        auth="admin",
        response_schema="feed",
    ),
    Operation(
        method="PATCH",
        path="/api/v1/feeds/{feed_id}",
        handler=change,
        summary="Let a feed rest or go on, or change it",
        auth="admin",
        request_schema="feed-change",
        response_schema="feed",
    ),
    Operation(
        method="DELETE",
        path="/api/v1/feeds/{feed_id}",
        handler=delete,
        summary="End a feed",
        auth="admin",
        status=204,
    ),
)
