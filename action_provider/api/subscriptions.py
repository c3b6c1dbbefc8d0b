"""Subscriptions: create, list, read, delete."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from starlette.responses import Response

from headrace.action_provider.api.access import check_allowed, chosen_endpoint, function_for, timestamp
from headrace.action_provider.errors import Forbidden, NotFound
from headrace.action_provider.http import Call, Operation, no_content, reply
from headrace.bus.errors import FilterInvalid
from headrace.bus.eventing.deliveries import drop_waiting
from headrace.bus.eventing.subscriptions import RetryPolicy, SubscriptionRecord, last_sequence
from headrace.bus.eventing.templates import compile_input
from headrace.bus.filters import compile_filter

T = TypeVar("T")


async def create(call: Call) -> Response:
    """Let events that pass a filter run a function. Everything is checked now: what is accepted can be delivered."""
    body, service = call.body, call.service
    check_compiles("/filter", compile_filter, body["filter"])
    check_compiles("/input", compile_input, body.get("input"))
    function = await function_for(service, call.caller, UUID(body["function_id"]))
    named = UUID(body["endpoint_id"]) if body.get("endpoint_id") else None
    endpoint = await chosen_endpoint(service, call.caller, named)
    check_allowed(endpoint, function)
    if endpoint.authentication_policy is not None and not call.caller.is_(endpoint.owner):
        raise Forbidden(
            f"endpoint {endpoint.name!r} asks how its users have signed in, which nobody can say when an event comes;"
            " only its owner's subscriptions run there"
        )
    subscription_id = uuid.uuid4()
    record = SubscriptionRecord(
        subscription_id=subscription_id,
        name=body.get("name") or function.name,
        owner=call.caller.principal,
        linked=tuple(sorted(call.caller.linked)),
        filter=body["filter"],
        function_id=function.function_id,
        endpoint_id=endpoint.endpoint_id,
        created_at=time.time(),
        input=body.get("input"),
        retry=msgspec.convert(body.get("retry") or {}, RetryPolicy),
        after_sequence=await last_sequence(service.connection),
    )
    await service.tables.subscriptions.create(subscription_id.hex, record)
    return reply(_described(record), 201)


async def list_subscriptions(call: Call) -> Response:
    """The caller's subscriptions, newest first."""
    records = [r.value for r in await call.service.tables.subscriptions.list() if call.caller.is_(r.value.owner)]
    records.sort(key=lambda record: -record.created_at)
    return reply({"subscriptions": [_described(record) for record in records]})


async def get(call: Call) -> Response:
    """One of the caller's subscriptions."""
    return reply(_described(await _own(call)))


async def delete(call: Call) -> Response:
    """End a subscription: events that come later are not delivered, and deliveries that wait are dropped."""
    record = await _own(call)
    # The record goes first: what a dispatcher stores between the two finds no subscription when its time comes.
    await call.service.tables.subscriptions.delete(record.subscription_id.hex)
    await drop_waiting(call.service.connection, record.subscription_id)
    return no_content()


async def _own(call: Call) -> SubscriptionRecord:
    return await own_subscription(call, call.path_id("subscription_id"))


async def own_subscription(call: Call, subscription_id: UUID) -> SubscriptionRecord:
    """A subscription of the caller. Raises `NotFound`."""
    found = await call.service.tables.subscriptions.get(subscription_id.hex)
    if found is None or not call.caller.is_(found.value.owner):
        raise NotFound(f"there is no subscription {subscription_id} of yours")
    return found.value


def check_compiles(place: str, compile_it: Callable[[Any], T], document: Any) -> T:
    """What a part of the body compiles to. Raises `FilterInvalid` with the pointer from the body's root."""
    try:
        return compile_it(document)
    except FilterInvalid as error:
        raise FilterInvalid(f"{place[1:]}: {error}", pointer=place + error.pointer) from error


def _described(record: SubscriptionRecord) -> dict[str, Any]:
    return {
        "subscription_id": record.subscription_id,
        "name": record.name,
        "owner": record.owner,
        "bus": record.bus,
        "filter": record.filter,
        "function_id": record.function_id,
        "endpoint_id": record.endpoint_id,
        "input": record.input,
        "retry": record.retry,
        "created_at": timestamp(record.created_at),
    }


ROUTES = (
    Operation(
        method="POST",
        path="/api/v1/subscriptions",
        handler=create,
        summary="Let events run a function",
        request_schema="subscription-request",
        response_schema="subscription",
        status=201,
    ),
    Operation(
        method="GET",
        path="/api/v1/subscriptions",
        handler=list_subscriptions,
        summary="List your subscriptions",
        response_schema="subscription-list",
    ),
    Operation(
        method="GET",
        path="/api/v1/subscriptions/{subscription_id}",
        handler=get,
        summary="Read a subscription of your own",
        response_schema="subscription",
    ),
    Operation(
        method="DELETE",
        path="/api/v1/subscriptions/{subscription_id}",
        handler=delete,
        summary="End a subscription of your own",
        status=204,
    ),
)
