"""What a request says of a subscription: its fields, checked end to end; and a subscription as it is shown."""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from headrace.action_provider.api.access import check_allowed, chosen_endpoint, endpoint_for, function_for, timestamp
from headrace.action_provider.api.bus_access import check_right
from headrace.action_provider.api.sink_bodies import described_sink, new_sink
from headrace.action_provider.errors import Forbidden, refused
from headrace.action_provider.http import Call
from headrace.bus.errors import FilterInvalid
from headrace.bus.eventing.events import DEFAULT_BUS, CloudEvent
from headrace.bus.eventing.flow.policy import compile_order
from headrace.bus.eventing.joins import Join, compile_join
from headrace.bus.eventing.lifetimes import StartPosition, as_written, moment
from headrace.bus.eventing.places import NO_ENDPOINT, EndpointChoice, OfflinePolicy, compile_places
from headrace.bus.eventing.retries import RetryPolicy
from headrace.bus.eventing.starts import start_position
from headrace.bus.eventing.subscriptions import Announce, Announcement, SubscriptionRecord, last_sequence
from headrace.bus.eventing.templates import check_variables, compile_input
from headrace.bus.filters import compile_filter
from headrace.bus.names import NO_FUNCTION, SINKS
from headrace.bus.store.models import FunctionRecord
from headrace.schemas import SchemaViolation

T = TypeVar("T")

_MOST_FORMER = 20

_POLICIES: Mapping[str, Any] = {"retry": RetryPolicy, "offline": OfflinePolicy, "announce": Announce}
"""Fields that are a struct each; what is left out, or null, is as by default."""


async def new_record(call: Call) -> SubscriptionRecord:
    """The subscription that a body asks for, not yet checked.

    Raises `InvalidRequest`, and what `function_for` and `chosen_endpoint` raise.
    """
    body, service = call.body, call.service
    _check_one_endpoint(body)
    subscription_id = uuid.uuid4()
    sink = await new_sink(service, subscription_id, body)
    function = None if sink else await function_for(service, call.caller, UUID(body["function_id"]))
    bus = await check_right(service, call.caller, body.get("bus") or DEFAULT_BUS, "subscribe", lasting=True)
    newest = await last_sequence(service.connection, bus=bus)
    start = await _start(call, bus)
    record = SubscriptionRecord(
        subscription_id=subscription_id,
        name=body.get("name") or (function.name if function else sink.host if sink else ""),
        owner=call.caller.principal,
        linked=tuple(sorted(call.caller.linked)),
        filter=body["filter"],
        function_id=function.function_id if function else NO_FUNCTION,
        endpoint_id=await first_endpoint(call, body) if function else SINKS,
        target=sink,
        created_at=time.time(),
        after_sequence=newest if start is None else max(newest, start.after),
        start=start,
        bus=bus,
    )
    return changed(record, {name: value for name, value in body.items() if name not in ("name", "endpoint_id")})


async def _start(call: Call, bus: str) -> StartPosition | None:
    try:
        return await start_position(call.service.connection, bus, call.body.get("start"))
    except ValueError as error:
        raise refused("/start/time", str(error)) from None


async def first_endpoint(call: Call, body: Mapping[str, Any]) -> UUID:
    """The endpoint that is named, the only one there is, or none where events choose.

    Raises what `chosen_endpoint` raises.
    """
    if body.get("endpoint") is not None:
        return NO_ENDPOINT
    named = UUID(body["endpoint_id"]) if body.get("endpoint_id") else None
    return (await chosen_endpoint(call.service, call.caller, named)).endpoint_id


def changed(record: SubscriptionRecord, body: Mapping[str, Any]) -> SubscriptionRecord:
    """The record with what the body says. Raises `InvalidRequest` for two kinds of endpoint at once."""
    _check_one_endpoint(body)
    fields = {name: body[name] for name in ("name", "filter", "input") if name in body}
    if "join" in body:
        fields["join"] = None if body["join"] is None else msgspec.convert(body["join"], Join)
    if "expires_at" in body:
        fields["expires_at"] = None if body["expires_at"] is None else _expiry(body["expires_at"])
    if "function_id" in body:
        fields["function_id"] = UUID(body["function_id"])
    for name, kind in _POLICIES.items():
        if name in body:
            fields[name] = msgspec.convert(body[name] or {}, kind)
    return _moved(msgspec.structs.replace(record, **fields), body)


def _check_one_endpoint(body: Mapping[str, Any]) -> None:
    if body.get("endpoint") is not None and body.get("endpoint_id") is not None:
        raise refused("/endpoint", "give endpoint_id, or endpoint where events choose it, not both")


def _expiry(text: str) -> float:
    try:
        expires_at = moment(text).timestamp()
    except ValueError as error:
        raise refused("/expires_at", str(error)) from None
    if expires_at <= time.time():
        raise refused("/expires_at", f"{text[:64]!r} is over")
    return expires_at


def _moved(record: SubscriptionRecord, body: Mapping[str, Any]) -> SubscriptionRecord:
    """The record with the endpoint, or the choice of one, that the body names."""
    endpoint, choice = record.endpoint_id, record.endpoint
    if body.get("endpoint") is not None:
        endpoint, choice = NO_ENDPOINT, msgspec.convert(body["endpoint"], EndpointChoice)
    elif body.get("endpoint_id") is not None:
        endpoint, choice = UUID(body["endpoint_id"]), None
    moved = msgspec.structs.replace(record, endpoint_id=endpoint, endpoint=choice)
    left = _places(record) - _places(moved) - {NO_ENDPOINT}
    if not left:
        return moved
    former = tuple(dict.fromkeys((*sorted(left, key=str), *record.former_endpoints)))[:_MOST_FORMER]
    return msgspec.structs.replace(moved, former_endpoints=former)


async def check(call: Call, record: SubscriptionRecord) -> FunctionRecord | None:
    """Check that it can be delivered; gives its function, if it has one. Raises `FilterInvalid`, `NotFound` and
    `Forbidden`, which say what is wrong."""
    check_compiles("/filter", compile_filter, record.filter)
    check_compiles("/input", compile_input, record.input)
    check_compiles("/flow/order_by", compile_order, record.flow and record.flow.order_by)
    check_compiles("/endpoint", lambda choice: compile_places(record.endpoint_id, choice), record.endpoint)
    check_compiles("/join", compile_join, record.join)
    _check_variables(record)
    service, caller = call.service, call.caller
    if record.join is not None:
        await check_right(service, caller, record.bus, "publish", lasting=True)
    for name in ("success", "failure"):
        told = getattr(record.announce, name)
        if told is not None:
            _check_told(record, told, f"/announce/{name}")
            await check_right(service, caller, told.bus or record.bus, "publish", lasting=True)
    if record.target is not None:
        return None
    function = await function_for(service, caller, record.function_id)
    for endpoint_id in sorted(_places(record), key=str):
        endpoint = await endpoint_for(service, caller, endpoint_id)
        check_allowed(endpoint, function)
        if endpoint.authentication_policy is not None and not caller.is_(endpoint.owner):
            raise Forbidden(
                f"endpoint {endpoint.name!r} asks how its users have signed in, which nobody can say when an event"
                " comes; only its owner's subscriptions run there"
            )
    return function


def _check_variables(record: SubscriptionRecord) -> None:
    """Raises `FilterInvalid` for a template that reads what there never is."""
    batched = record.flow is not None and record.flow.batch is not None
    templates: list[tuple[str, Any, str]] = [("/input", record.input, "events" if batched else "event")]
    if record.endpoint is not None:
        templates.append(("/endpoint/template", record.endpoint.template, "event"))
    if record.join is not None:
        templates.append(("/join/key", record.join.key, "event"))
    for place, document, known in templates:
        check_compiles(place, functools.partial(check_variables, known=known), document)


def _check_told(record: SubscriptionRecord, told: Announcement, pointer: str) -> None:
    """Raises `InvalidRequest` where what is announced would be no event."""
    try:
        sample = {"specversion": "1.0", "id": "1", "type": told.type, "source": told.source or "/"}
        CloudEvent.of_document(sample)
    except SchemaViolation as error:
        problem = error.violations[0]
        raise refused(pointer + problem.pointer, problem.problem) from None


def check_compiles(place: str, compile_it: Callable[[Any], T], document: Any) -> T:
    """What a part of the body compiles to. Raises `FilterInvalid` with the pointer from the body's root."""
    try:
        return compile_it(document)
    except FilterInvalid as error:
        raise FilterInvalid(f"{place[1:]}: {error}", pointer=place + error.pointer) from error


def described(record: SubscriptionRecord) -> dict[str, Any]:
    """A subscription as its owner sees it."""
    pause = record.pauses.now
    return {
        "subscription_id": record.subscription_id,
        "name": record.name,
        "owner": record.owner,
        "bus": record.bus,
        "filter": record.filter,
        "function_id": None if record.function_id == NO_FUNCTION else record.function_id,
        "endpoint_id": None if record.endpoint_id in (NO_ENDPOINT, SINKS) else record.endpoint_id,
        "endpoint": record.endpoint,
        "offline": record.offline,
        "input": record.input,
        "retry": record.retry,
        "announce": record.announce,
        "join": record.join,
        "start": as_written(record.start),
        "expires_at": None if record.expires_at is None else timestamp(record.expires_at),
        "flow": record.flow,
        "paused": pause and {"since": timestamp(pause.since), "backlog": pause.events},
        "target": described_sink(record.target),
        "created_at": timestamp(record.created_at),
    }


def _places(record: SubscriptionRecord) -> frozenset[UUID]:
    named = (record.endpoint_id,) if record.endpoint is None else record.endpoint.allowed.values()
    return frozenset((*named, *record.offline.next_endpoints))
