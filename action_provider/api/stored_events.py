"""Stored events: lists of them, newest first, and each by its place on its bus."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.api.asked import moment, number
from headrace.action_provider.api.bus_access import check_right
from headrace.action_provider.api.subscription_bodies import check_compiles
from headrace.action_provider.errors import NotFound, ServiceError, refused
from headrace.action_provider.http import Call, Operation, Query, reply
from headrace.bus.errors import StreamMissing
from headrace.bus.eventing.arrivals import Arrived, sequence_before
from headrace.bus.eventing.events import DEFAULT_BUS
from headrace.bus.eventing.traces.lookups import event_at, find_event, newest_events
from headrace.bus.filters import Filter, compile_filter
from headrace.bus.names import event_subject, type_subject

_DEFAULT = 50
_MOST = 500
_LARGEST = (1 << 63) - 1
_ANY_BELOW = ".*"

BUS = Query(name="bus", description="Which bus; `default` where it is not given.")


async def list_events(call: Call) -> Response:
    """Events that a bus holds, newest first, a page at a time.

    One call goes through 50 000 events at most, so a page may be short, even empty: there are more as long as it has a
    `next`.
    """
    connection, bus = (
        call.service.connection,
        await check_right(call.service, call.caller, asked_bus(call), "subscribe"),
    )
    since, until = moment(call, "since"), moment(call, "until")
    first = 1 if since is None else await sequence_before(connection, since, bus=bus) + 1
    before = number(call, "before", default=_LARGEST, most=_LARGEST)
    if until is not None:
        before = min(before, await sequence_before(connection, until, bus=bus) + 1)
    found = await newest_events(
        connection,
        bus,
        _filter(call),
        subject=asked_subject(call, bus),
        limit=number(call, "limit", default=_DEFAULT, most=_MOST),
        first=first,
        before=before,
    )
    return reply(
        {
            "events": [stored_document(call, each) for each in found.events],
            "looked_at": found.looked_at,
            "next": found.next,
        }
    )


async def get(call: Call) -> Response:
    """One event: itself, when it was stored, and who published it where that is the caller's to see."""
    arrived = await asked_event(call)
    return reply(stored_document(call, arrived))


def asked_bus(call: Call) -> str:
    """The bus that a request names."""
    return call.query("bus") or DEFAULT_BUS


def asked_subject(call: Call, bus: str) -> str | None:
    """Where events of the type that a request names are stored."""
    wanted = call.query("type")
    if not wanted:
        return None
    if wanted.endswith(_ANY_BELOW):
        return type_subject(bus, wanted.removesuffix(_ANY_BELOW))
    return event_subject(bus, wanted)


async def asked_event(call: Call) -> Arrived:
    """The event at the place in the path. Raises `NotFound` when the bus does not hold it, or not for the caller."""
    bus, given = asked_bus(call), call.path("sequence")
    known = given.isascii() and given.isdecimal() and len(given) <= 18
    return await _seen(call, bus, await _at(call, bus, int(given)) if known else None, f"event {given[:40]}")


async def named_event(call: Call) -> tuple[str, str, Arrived | None]:
    """Source, id and, if it is found, the event that the query names.

    Raises `InvalidRequest`, and `NotFound` when it is not for the caller's eyes.
    """
    bus, source, event_id = asked_bus(call), call.query("source"), call.query("id")
    if not source or not event_id:
        raise refused("?source", "say which event: its source and its id")
    subject = asked_subject(call, bus)
    try:
        arrived = await find_event(call.service.connection, bus, source, event_id, subject=subject)
    except StreamMissing:
        arrived = None
    if arrived is not None or not await _listens(call, bus):
        await _seen(call, bus, arrived, f"event {event_id[:80]!r} of {source[:80]!r}")
    return source, event_id, arrived


async def _at(call: Call, bus: str, sequence: int) -> Arrived | None:
    try:
        return await event_at(call.service.connection, bus, sequence)
    except StreamMissing:
        return None


async def _seen(call: Call, bus: str, arrived: Arrived | None, name: str) -> Arrived:
    """The event, if there is one that the caller may see: as one of those who may listen, or as its publisher."""
    if arrived is None or not await may_see(call, bus, arrived):
        raise NotFound(f"the bus {bus[:80]!r} holds no {name} (any more), or it is not yours to see")
    return arrived


async def may_see(call: Call, bus: str, arrived: Arrived) -> bool:
    """Whether the caller may see an event."""
    return _published(call, arrived) or await _listens(call, bus)


async def _listens(call: Call, bus: str) -> bool:
    try:
        await check_right(call.service, call.caller, bus, "subscribe")
    except ServiceError:
        return call.caller.admin
    return True


def _published(call: Call, arrived: Arrived) -> bool:
    return bool(arrived.publisher) and call.caller.is_(arrived.publisher)


def stored_document(call: Call, arrived: Arrived) -> dict[str, Any]:
    """A stored event as answers show it: its publisher only to itself and to administrators."""
    document: dict[str, Any] = {
        "sequence": arrived.sequence,
        "stored_at": timestamp(arrived.stored_at),
        "event": None if arrived.event is None else arrived.event.document,
    }
    if arrived.publisher and (call.caller.admin or _published(call, arrived)):
        document["published_by"] = arrived.publisher
    return document


def _filter(call: Call) -> Filter | None:
    given = call.query("filter")
    if given is None:
        return None
    try:
        document = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise refused("?filter", f"not JSON: {error}") from None
    return check_compiles("?filter", compile_filter, document)


TYPE = Query(
    name="type", description="Only events of this type; with `.*` behind it, only those of the types below it."
)

ROUTES = (
    Operation(
        method="GET",
        path="/api/v1/events",
        handler=list_events,
        summary="List stored events, newest first",
        response_schema="stored-event-list",
        query=(
            BUS,
            TYPE,
            Query(name="filter", description="Only events that pass this filter (JSON)."),
            Query(
                name="since",
                description="Only what was stored since: a time (`2026-02-28T12:00:00Z`) or how long ago (`90s`, `15m`,"
                " `12h`, `7d`).",
            ),
            Query(name="until", description="Only what was stored before: a time, or how long ago."),
            Query(
                name="before",
                description="Only events before this place: the `next` of the page before.",
                schema={"type": "integer", "minimum": 1},
            ),
            Query(
                name="limit",
                description=f"At most so many; {_DEFAULT} where it is not given.",
                schema={"type": "integer", "minimum": 1, "maximum": _MOST},
            ),
        ),
    ),
    Operation(
        method="GET",
        path="/api/v1/events/{sequence}",
        handler=get,
        summary="Read a stored event",
        response_schema="stored-event",
        query=(BUS,),
    ),
)
