"""Replays: events of the past delivered once more; create, list, read, pause, resume, cancel."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from starlette.responses import Response

from headrace.action_provider.api.access import function_for, timestamp
from headrace.action_provider.api.asked import moment_of
from headrace.action_provider.api.bus_access import check_right
from headrace.action_provider.api.subscription_bodies import changed, check, check_compiles, described, first_endpoint
from headrace.action_provider.api.subscriptions import own_subscription
from headrace.action_provider.errors import Conflict, NotFound, refused
from headrace.action_provider.http import Call, Operation, reply
from headrace.bus.errors import FilterInvalid, RecordConflict
from headrace.bus.eventing.arrivals import sequence_before
from headrace.bus.eventing.events import DEFAULT_BUS
from headrace.bus.eventing.replays.models import (
    DEFAULT_PER_SECOND,
    EVERYTHING,
    RESUMABLE,
    ReplayRecord,
    ReplayState,
)
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.filters import compile_filter
from headrace.bus.names import event_stream

MOST_OPEN = 20
"""Of one owner, running or paused."""


async def create(call: Call) -> Response:
    """Deliver events of the past once more, to a subscription or a target of its own. What comes now is not touched.

    The range ends with what the bus holds now, or before.
    """
    body, service = call.body, call.service
    await _check_room(call)
    if body.get("filter") is not None:
        check_compiles("/filter", compile_filter, body["filter"])
    if (body.get("subscription_id") is None) == (body.get("target") is None):
        raise refused("/target", "give a subscription_id or a target, one of them")
    replay_id, subscription, bus = uuid.uuid4(), None, body.get("bus") or DEFAULT_BUS
    if body.get("subscription_id") is not None:
        subscription = await own_subscription(call, UUID(body["subscription_id"]))
        if body.get("bus") not in (None, subscription.bus):
            raise refused("/bus", f"the subscription is to the bus {subscription.bus!r}")
        bus = subscription.bus
    await check_right(service, call.caller, bus, "subscribe", lasting=True)
    scope = await _range(call, bus)
    runs = subscription or await _own_target(call, replay_id, bus, scope.after)
    record = ReplayRecord(
        replay_id=replay_id,
        name=body.get("name") or runs.name,
        owner=call.caller.principal,
        created_at=time.time(),
        bus=bus,
        subscription_id=None if subscription is None else subscription.subscription_id,
        own=runs if subscription is None else None,
        filter=body.get("filter"),
        per_second=body.get("per_second") or DEFAULT_PER_SECOND,
        after=scope.after,
        last=scope.last,
        position=scope.after,
        forgotten_until=scope.forgotten_until,
    )
    await service.tables.replays.create(record.replay_id.hex, record)
    return reply(_described(record), 201)


async def list_replays(call: Call) -> Response:
    """The caller's replays, newest first; ended ones are kept for 90 days."""
    records = [r.value for r in await call.service.tables.replays.list() if call.caller.is_(r.value.owner)]
    records.sort(key=lambda record: -record.created_at)
    return reply({"replays": [_described(record) for record in records]})


async def get(call: Call) -> Response:
    """One of the caller's replays, and how far it has come (a second ago)."""
    return reply(_described(await _own(call)))


async def change(call: Call) -> Response:
    """Pause a replay, let it go on where it was, end it, or have it go slower or faster.

    Deliveries that were made go on, with their retries, also when it is paused or cancelled.
    """
    replays, record = call.service.tables.replays, await _own(call)
    state, per_second = call.body.get("state"), call.body.get("per_second")
    while True:
        row = await replays.need(record.replay_id.hex)
        changed = row.value if state is None else _moved(row.value, state)
        if per_second is not None:
            changed = msgspec.structs.replace(changed, per_second=per_second)
        if changed == row.value:
            return reply(_described(changed))
        # A conflict: it has come further meanwhile.
        with contextlib.suppress(RecordConflict):
            return reply(_described((await replays.update(row, changed, ttl_s=changed.ttl_s)).value))


def _moved(record: ReplayRecord, state: ReplayState) -> ReplayRecord:
    """The record in another state. Raises `Conflict` when it cannot go there."""
    if record.state == state:
        return record
    possible = {"running": RESUMABLE, "paused": ("running",), "cancelled": ("running", "paused", "failed")}
    if record.state not in possible[state]:
        raise Conflict(f"the replay is {record.state}, so it cannot be {state}")
    ended_at = time.time() if state == "cancelled" else 0.0
    return msgspec.structs.replace(record, state=state, problem="", ended_at=ended_at)


async def _own(call: Call) -> ReplayRecord:
    replay_id = call.path_id("replay_id")
    found = await call.service.tables.replays.get(replay_id.hex)
    if found is None or not (call.caller.is_(found.value.owner) or call.caller.admin):
        raise NotFound(f"there is no replay {replay_id} of yours")
    return found.value


async def _check_room(call: Call) -> None:
    records = [r.value for r in await call.service.tables.replays.list() if call.caller.is_(r.value.owner)]
    if sum(not record.ended for record in records) >= MOST_OPEN:
        raise Conflict(f"{MOST_OPEN} of your replays are running or paused; wait for one, or cancel it")


async def _own_target(call: Call, replay_id: UUID, bus: str, after: int) -> SubscriptionRecord:
    """What a replay of its own runs, checked as a subscription is."""
    wanted = call.body["target"]
    function = await function_for(call.service, call.caller, UUID(wanted["function_id"]))
    record = SubscriptionRecord(
        subscription_id=replay_id,
        name=call.body.get("name") or function.name,
        owner=call.caller.principal,
        linked=tuple(sorted(call.caller.linked)),
        filter=EVERYTHING,
        function_id=function.function_id,
        endpoint_id=await first_endpoint(call, wanted),
        created_at=time.time(),
        after_sequence=after,
        bus=bus,
    )
    record = changed(record, {name: value for name, value in wanted.items() if name != "endpoint_id"})
    try:
        await check(call, record)
    except FilterInvalid as error:
        raise FilterInvalid(str(error), pointer=f"/target{error.pointer}") from error
    return record


@dataclasses.dataclass(frozen=True, slots=True)
class _Range:
    after: int
    last: int
    forgotten_until: float


async def _range(call: Call, bus: str) -> _Range:
    """The sequences that a body means. Raises `InvalidRequest` when there can be none."""
    connection, body = call.service.connection, call.body
    for first, second in (("from_sequence", "since"), ("to_sequence", "until")):
        if body.get(first) is not None and body.get(second) is not None:
            raise refused(f"/{second}", f"give {first} or {second}, one of them")
    since = _moment(call, "since")
    if since is None and body.get("from_sequence") is None:
        raise refused("/since", "say where it begins: since, or from_sequence")
    state = (await connection.api(f"STREAM.INFO.{event_stream(bus)}"))["state"]
    newest, oldest = int(state["last_seq"]), int(state["first_seq"])
    after = body["from_sequence"] - 1 if since is None else await sequence_before(connection, since, bus=bus)
    until = _moment(call, "until")
    last = min(newest, body.get("to_sequence") or newest)
    if until is not None:
        last = min(newest, await sequence_before(connection, until, bus=bus))
    if body.get("to_sequence") is not None and body["to_sequence"] <= after:
        raise refused("/to_sequence", "it comes before the beginning")
    if since is not None and until is not None and until <= since:
        raise refused("/until", "it comes before the beginning")
    began = datetime.fromisoformat(state["first_ts"]).timestamp()
    # Of what was forgotten nobody knows the times, so it cannot be counted: that there was something can be said.
    forgotten = since is not None and oldest > 1 and newest >= oldest and since.timestamp() < began
    return _Range(min(after, last), last, began if forgotten else 0.0)


def _moment(call: Call, name: str) -> datetime | None:
    given = call.body.get(name)
    if given is None:
        return None
    moment = moment_of(given, f"/{name}")
    if name == "since" and moment > datetime.now(UTC):
        raise refused("/since", f"{given[:64]!r} has not come yet")
    return moment


def _described(record: ReplayRecord) -> dict[str, Any]:
    return {
        "replay_id": record.replay_id,
        "name": record.name,
        "owner": record.owner,
        "bus": record.bus,
        "subscription_id": record.subscription_id,
        "target": None if record.own is None else _target(record.own),
        "filter": record.filter,
        "per_second": record.per_second,
        "from_sequence": record.after + 1,
        "to_sequence": record.last,
        "forgotten_until": timestamp(record.forgotten_until) if record.forgotten_until else None,
        "state": record.state,
        "problem": record.problem or None,
        "position": record.position,
        "left": record.last - record.position,
        "looked_at": record.looked_at,
        "sent": record.sent,
        "unreadable": record.unreadable,
        "missing": record.missing,
        "gaps": record.gaps,
        "created_at": timestamp(record.created_at),
        "ended_at": timestamp(record.ended_at) if record.ended_at else None,
    }


def _target(own: SubscriptionRecord) -> dict[str, Any]:
    shown = described(own)
    return {name: shown[name] for name in ("function_id", "endpoint_id", "endpoint", "input", "retry", "offline")}


ROUTES = (
    Operation(
        method="POST",
        path="/api/v1/replays",
        handler=create,
        summary="Deliver events of the past once more",
        request_schema="replay-request",
        response_schema="replay",
        status=201,
    ),
    Operation(
        method="GET",
        path="/api/v1/replays",
        handler=list_replays,
        summary="List your replays",
        response_schema="replay-list",
    ),
    Operation(
        method="GET",
        path="/api/v1/replays/{replay_id}",
        handler=get,
        summary="Read a replay of your own, and how far it has come",
        response_schema="replay",
    ),
    Operation(
        method="PATCH",
        path="/api/v1/replays/{replay_id}",
        handler=change,
        summary="Pause, resume or cancel a replay of your own",
        request_schema="replay-change",
        response_schema="replay",
    ),
)
