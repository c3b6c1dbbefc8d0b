"""Buses: create, list, read, change, delete; and who may publish and subscribe."""

from __future__ import annotations

import time
from typing import Any, Literal

import msgspec
from starlette.responses import Response

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.api.bus_access import bus_of, may, not_found, own_bus, sees
from headrace.action_provider.api.shares import check_known
from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.auth.withdrawal import end_sessions
from headrace.action_provider.errors import Conflict, ConsentRequired, InvalidRequest, NotFound, refused
from headrace.action_provider.http import Call, Operation, Query, no_content, reply
from headrace.action_provider.state import Service
from headrace.bus.errors import BusLimit, RecordConflict, StreamFull, StreamMissing
from headrace.bus.eventing.bus_keeping import change_bus, make_bus, remove_bus
from headrace.bus.eventing.buses import MOST_GUESTS, BusRecord, EventSchema, Retention, everybodys
from headrace.bus.names import DEFAULT_BUS, event_stream
from headrace.bus.store.models import PUBLIC
from headrace.schemas import SchemaViolation, Violation, check_given, validate

Side = Literal["publishers", "subscribers"]


async def create(call: Call) -> Response:
    """Make a bus of one's own: only its owner, and whom the owner names, may publish and subscribe."""
    body, service = call.body, call.service
    if body["name"] == DEFAULT_BUS:
        raise Conflict(f"the bus {DEFAULT_BUS!r} is there already; it is everybody's")
    record = _changed(BusRecord(name=body["name"], owner=call.caller.principal, created_at=time.time()), body)
    await _check_guests(service, body)
    try:
        made = await make_bus(service.connection, service.tables, record, replicas=service.settings.streams.replicas)
    except RecordConflict:
        raise Conflict(f"there is, or was, a bus {body['name']!r}; choose another name") from None
    except BusLimit as error:
        raise Conflict(str(error)) from None
    except StreamFull as error:
        raise _no_room(error) from None
    return reply(await _described(call, made), 201)


async def list_buses(call: Call) -> Response:
    """The buses that the caller may use, by name."""
    found = [record.value for record in await call.service.tables.buses.list() if record.value.is_there]
    seen = [record for record in found if await _lists(call.caller, record)]
    seen.sort(key=lambda record: record.name)
    return reply({"buses": [await _described(call, record) for record in (everybodys(), *seen)]})


async def get(call: Call) -> Response:
    """One bus, with what it holds at this moment."""
    record = await bus_of(call.service, call.path("name"))
    if not await sees(call.caller, record):
        raise not_found(record.name)
    return reply({**await _described(call, record), **await _held(call.service, record)})


async def change(call: Call) -> Response:
    """Change a bus of one's own; what the body leaves out stays. What it holds beyond a smaller retention goes."""
    record = await own_bus(call.service, call.caller, call.path("name"))
    await _check_guests(call.service, call.body)
    return reply(await _described(call, await _change(call, record, lambda found: _changed(found, call.body))))


async def delete(call: Call) -> Response:
    """Delete a bus of one's own with its events, the subscriptions to it, and the schedules, webhooks, feeds and
    credentials that publish to it, whoever owns them.

    What runs goes on, and dead letters stay. The name stays its owner's.
    """
    record = await own_bus(call.service, call.caller, call.path("name"))
    await remove_bus(call.service.connection, call.service.tables, record.name)
    await end_sessions(call.service.tables, lambda session: session.bus == record.name)
    return no_content()


async def add_publisher(call: Call) -> Response:
    """Let a user, a group or (`public`) everybody publish. Twice is fine."""
    return await _add(call, "publishers")


async def add_subscriber(call: Call) -> Response:
    """Let a user, a group or (`public`) everybody subscribe, and so read what is published. Twice is fine."""
    return await _add(call, "subscribers")


async def remove_publisher(call: Call) -> Response:
    """Take it back: also their schedules and webhooks publish there no more."""
    return await _remove(call, "publishers")


async def remove_subscriber(call: Call) -> Response:
    """Take it back: events that come later do not reach their subscriptions."""
    return await _remove(call, "subscribers")


async def _add(call: Call, side: Side) -> Response:
    record, guest = await own_bus(call.service, call.caller, call.path("name")), call.body["with"]
    await check_known(call.service, guest)

    def added(found: BusRecord) -> BusRecord:
        guests: tuple[str, ...] = getattr(found, side)
        if guest in guests:
            return found
        if len(guests) >= MOST_GUESTS:
            raise Conflict(f"the bus {found.name!r} has {MOST_GUESTS} {side} already; name a group")
        return msgspec.structs.replace(found, **{side: (*guests, guest)})

    return reply(await _described(call, await _change(call, record, added)))


async def _remove(call: Call, side: Side) -> Response:
    record, guest = await own_bus(call.service, call.caller, call.path("name")), call.query("with") or ""
    try:
        validate("bus-access", {"with": guest})
    except SchemaViolation:
        raise refused("?with", f"{guest[:80]!r} is neither a URN nor `{PUBLIC}`") from None
    if guest not in getattr(record, side):
        raise NotFound(f"{guest} is not among the {side} of the bus {record.name!r}")

    def removed(found: BusRecord) -> BusRecord:
        return msgspec.structs.replace(found, **{side: tuple(each for each in getattr(found, side) if each != guest)})

    return reply(await _described(call, await _change(call, record, removed)))


async def _change(call: Call, record: BusRecord, change: Any) -> BusRecord:
    service = call.service

    def if_there(found: BusRecord) -> BusRecord:
        if not found.is_there:
            raise not_found(found.name)
        made: BusRecord = change(found)
        return made

    try:
        return await change_bus(
            service.connection, service.tables, record.name, if_there, replicas=service.settings.streams.replicas
        )
    except StreamFull as error:
        raise _no_room(error) from None


def _changed(record: BusRecord, body: dict[str, Any]) -> BusRecord:
    """The record with what a body says. Raises `InvalidRequest` for a schema that cannot be used."""
    changes: dict[str, Any] = {name: body[name] for name in ("description", "owner") if name in body}
    changes |= {name: tuple(dict.fromkeys(body[name])) for name in ("publishers", "subscribers") if name in body}
    if "retention" in body:
        changes["retention"] = msgspec.structs.replace(record.retention, **body["retention"])
    if "schemas" in body:
        changes["schemas"] = {kind: _schema(kind, each) for kind, each in body["schemas"].items()}
    return msgspec.structs.replace(record, **changes)


def _schema(kind: str, given: dict[str, Any]) -> EventSchema:
    try:
        check_given(given["schema"], name="schema", whole="any")
    except SchemaViolation as error:
        below = f"/schemas/{kind.replace('~', '~0').replace('/', '~1')}/schema"
        places = tuple(_below(each, below) for each in error.violations)
        raise InvalidRequest(f"the schema for {kind!r} cannot be used; see `errors`", violations=places) from None
    return msgspec.convert(given, EventSchema)


def _below(each: Violation, below: str) -> Violation:
    """A violation, seen from the root of the body."""
    return Violation(pointer=below + each.pointer, problem=each.problem, keyword=each.keyword)


async def _check_guests(service: Service, body: dict[str, Any]) -> None:
    for guest in (*body.get("publishers", ()), *body.get("subscribers", ())):
        await check_known(service, guest)
    if "owner" in body:
        await check_known(service, body["owner"])


def _no_room(error: StreamFull) -> Conflict:
    return Conflict(
        f"the store cannot promise so many bytes ({error}); ask for fewer (`retention.max_bytes`), or ask its"
        " administrator for room"
    )


async def _lists(caller: Caller, record: BusRecord) -> bool:
    try:
        return await sees(caller, record)
    except ConsentRequired:
        return False


async def _held(service: Service, record: BusRecord) -> dict[str, Any]:
    if record.name == DEFAULT_BUS:
        return {}  # what everybody together publishes is nobody's to see
    try:
        state = (await service.connection.api(f"STREAM.INFO.{event_stream(record.name)}"))["state"]
    except StreamMissing:
        raise not_found(record.name) from None
    return {
        "events": state["messages"],
        "bytes": state["bytes"],
        "first_sequence": state["first_seq"],
        "last_sequence": state["last_seq"],
    }


async def _described(call: Call, record: BusRecord) -> dict[str, Any]:
    caller = call.caller
    settings = call.service.settings.streams
    is_everybodys = record.name == DEFAULT_BUS
    retention = (
        Retention(max_age_s=settings.event_age_s, max_bytes=settings.events_bytes)
        if is_everybodys
        else record.retention
    )
    return {
        "name": record.name,
        "owner": None if is_everybodys else record.owner,
        "description": record.description,
        "publishers": list(record.publishers),
        "subscribers": list(record.subscribers),
        "retention": retention,
        "schemas": record.schemas,
        "created_at": None if is_everybodys else timestamp(record.created_at),
        "may_publish": await may(caller, record, "publish"),
        "may_subscribe": await may(caller, record, "subscribe"),
    }


_PATH = "/api/v1/buses"
_ONE = f"{_PATH}/{{name}}"
_WITH = Query(name="with", description="The URN of a user or group, or `public`.", required=True)


def _access(side: Side, add: Any, remove: Any, what: str) -> tuple[Operation, ...]:
    path = f"{_ONE}/{side}"
    return (
        Operation(
            method="POST",
            path=path,
            handler=add,
            summary=f"Let somebody {what}",
            request_schema="bus-access",
            response_schema="bus",
        ),
        Operation(
            method="DELETE",
            path=path,
            handler=remove,
            summary=f"Let somebody {what} no more",
            response_schema="bus",
            query=(_WITH,),
        ),
    )


ROUTES = (
    Operation(
        method="POST",
        path=_PATH,
        handler=create,
        summary="Make a bus",
        request_schema="bus-request",
        response_schema="bus",
        status=201,
    ),
    Operation(
        method="GET",
        path=_PATH,
        handler=list_buses,
        summary="List the buses that you may use",
        response_schema="bus-list",
    ),
    Operation(
        method="GET",
        path=_ONE,
        handler=get,
        summary="Read a bus, and how much it holds",
        response_schema="bus",
    ),
    Operation(
        method="PATCH",
        path=_ONE,
        handler=change,
        summary="Change a bus of your own",
        request_schema="bus-change",
        response_schema="bus",
    ),
    Operation(
        method="DELETE",
        path=_ONE,
        handler=delete,
        summary="Delete a bus of your own, with all that it holds",
        status=204,
    ),
    *_access("publishers", add_publisher, remove_publisher, "publish to a bus of your own"),
    *_access("subscribers", add_subscriber, remove_subscriber, "subscribe to a bus of your own"),
)
