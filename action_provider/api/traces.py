"""Traces: for one event everything that followed from it, as far as it is the caller's to see.

The owner of a subscription sees its deliveries, whoever published the event that it was stored, and an administrator
everything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec
from starlette.responses import Response

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.api.asked import identifier, number, truth
from headrace.action_provider.api.stored_events import (
    BUS,
    TYPE,
    asked_bus,
    asked_event,
    may_see,
    named_event,
    stored_document,
)
from headrace.action_provider.errors import NotFound
from headrace.action_provider.http import Call, Operation, Query, reply
from headrace.bus.eventing.places import NO_ENDPOINT
from headrace.bus.eventing.replays.models import ReplayRecord
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.eventing.traces.announced import Announced, find_announced
from headrace.bus.eventing.traces.stories import AttemptStory, Story
from headrace.bus.eventing.traces.tracing import Trace, Traced, Tried, trace, trace_one
from headrace.bus.names import NO_FUNCTION, SINKS

_DEFAULT = 50
_MOST = 200
_MOST_FOLLOWED = 20
_LARGEST = (1 << 63) - 1
_TIMES = ("due_at", "stored_at", "started_at", "ended_at", "result_stored_at")
_TEXTS = ("error", "message", "traceback")
_YEAR_9999_S = 253_370_764_800.0


async def trace_place(call: Call) -> Response:
    """Everything that followed from the event at a place on its bus."""
    arrived = await asked_event(call)
    event = arrived.event
    if event is None:
        raise NotFound(f"the event {arrived.sequence} cannot be read, so it was passed over")
    return reply(await _trace(call, Traced(asked_bus(call), event.source, event.id, arrived)))


async def trace_named(call: Call) -> Response:
    """Everything that followed from an event, by its source and id.

    It is looked for among the newest 50 000 events of the bus (of its type, where that is named). Where it is not
    found, or was forgotten, its deliveries are looked up all the same; whether a subscription matched is not known
    then.
    """
    source, event_id, arrived = await named_event(call)
    return reply(await _trace(call, Traced(asked_bus(call), source, event_id, arrived)))


async def _trace(call: Call, event: Traced) -> dict[str, Any]:
    rows = await call.service.tables.replays.list()
    replays = [row.value for row in rows if call.caller.admin or call.caller.is_(row.value.owner)]
    asked = _Asked(
        subscription=identifier(call, "subscription_id"),
        explain=truth(call, "explain"),
        limit=number(call, "limit", default=_DEFAULT, most=_MOST),
        start=number(call, "start", default=1, most=_LARGEST),
        replays=replays,
        further=iter(range(_MOST_FOLLOWED if truth(call, "follow", default=True) else 0)),
    )
    return await _document(call, event, asked)


@dataclasses.dataclass(slots=True)
class _Asked:
    """What a trace is to show. `further` are the announced events that are still followed."""

    subscription: UUID | None
    explain: bool
    limit: int
    start: int
    replays: list[ReplayRecord]
    further: Iterator[int]


async def _found(call: Call, event: Traced, asked: _Asked) -> Trace:
    service = call.service
    if asked.subscription is not None:
        row = await service.tables.subscriptions.get(asked.subscription.hex)
        if row is None or not _visible(call, row.value):
            raise NotFound(f"there is no subscription {asked.subscription} of yours")
        return await trace_one(
            service.connection, service.keys, row, event, explain=asked.explain, replays=asked.replays
        )
    return await trace(
        service.connection,
        service.keys,
        service.tables.subscriptions,
        event,
        is_visible=lambda record: _visible(call, record),
        explain=asked.explain,
        limit=asked.limit,
        start=asked.start,
        replays=asked.replays,
    )


def _visible(call: Call, record: SubscriptionRecord) -> bool:
    return call.caller.admin or call.caller.is_(record.owner)


async def _document(call: Call, event: Traced, asked: _Asked) -> dict[str, Any]:
    found = await _found(call, event, asked)
    return {
        "bus": event.bus,
        "source": event.source,
        "id": event.event_id,
        "stored": None if event.arrived is None else stored_document(call, event.arrived),
        "subscriptions": [await _tried(call, each, asked) for each in found.tried],
        "passed_over": found.passed_over,
        "next": found.next,
    }


async def _tried(call: Call, tried: Tried, asked: _Asked) -> dict[str, Any]:
    record = tried.record
    return {
        "subscription_id": record.subscription_id,
        "name": record.name,
        "owner": record.owner,
        "function_id": None if record.function_id == NO_FUNCTION else record.function_id,
        "matched": tried.matched,
        "explanation": None if tried.explanation is None else tried.explanation.document(),
        "deliveries": [await _delivery(call, story, asked) for story in tried.stories],
        "is_part": tried.is_part,
        "joined": await _announced(call, tried.joined, asked),
    }


async def _delivery(call: Call, story: Story, asked: _Asked) -> dict[str, Any]:
    letter = story.letter
    return {
        "state": story.state,
        "replay_id": story.delivery.replay,
        "endpoint_id": _endpoint(story.endpoint),
        "attempts": [_attempt(each) for each in story.attempts],
        "redrives": [{**msgspec.structs.asdict(each), "at": timestamp(each.at)} for each in story.redrives],
        "dead_letter": None
        if letter is None
        else {
            "dead_letter_id": letter.dead_letter_id,
            "reason": letter.reason,
            "code": letter.code,
            "created_at": timestamp(letter.created_at),
        },
        "announced": await _announced(call, await find_announced(call.service.connection, story), asked),
    }


async def _announced(call: Call, found: Announced | None, asked: _Asked) -> dict[str, Any] | None:
    """An event that followed, and what followed from it in its turn, as far as the caller may see it."""
    if found is None or found.arrived.event is None:
        return None
    event, arrived = found.arrived.event, found.arrived
    followed = None
    may = asked.subscription is None and await may_see(call, found.bus, arrived)
    if may and next(asked.further, None) is not None:
        further = Traced(found.bus, event.source, event.id, arrived)
        followed = await _document(call, further, dataclasses.replace(asked, start=1, explain=False))
    return {
        "bus": found.bus,
        "sequence": arrived.sequence,
        "source": event.source,
        "id": event.id,
        "type": event.type,
        "stored_at": timestamp(arrived.stored_at),
        "trace": followed,
    }


def _attempt(attempt: AttemptStory) -> dict[str, Any]:
    texts = {name: text for name in _TEXTS if (text := getattr(attempt, name))}
    times = {name: timestamp(at) for name in _TIMES if 0 < (at := getattr(attempt, name)) < _YEAR_9999_S}
    return {
        "attempt": attempt.attempt,
        "task_id": attempt.task_id,
        "endpoint_id": _endpoint(attempt.endpoint_id),
        "state": attempt.state,
        **texts,
        **times,
    }


def _endpoint(endpoint_id: UUID | None) -> UUID | None:
    return None if endpoint_id in (NO_ENDPOINT, SINKS) else endpoint_id


_QUERY = (
    BUS,
    Query(
        name="subscription_id",
        description="Only what became of it at this subscription, also when that does not match.",
        schema={"type": "string", "format": "uuid"},
    ),
    Query(
        name="explain",
        description="`true`: say clause by clause why each subscription matched, and show those that did not as well.",
        schema={"type": "string", "enum": ["true", "false"]},
    ),
    Query(
        name="follow",
        description=f"`false`: do not follow the events that were announced because of it; else up to {_MOST_FOLLOWED}"
        " are, and those that were announced because of them.",
        schema={"type": "string", "enum": ["true", "false"]},
    ),
    Query(
        name="limit",
        description=f"At most so many subscriptions; {_DEFAULT} where it is not given.",
        schema={"type": "integer", "minimum": 1, "maximum": _MOST},
    ),
    Query(
        name="start",
        description="Where the page begins: the `next` of the page before.",
        schema={"type": "integer", "minimum": 1},
    ),
)

ROUTES = (
    Operation(
        method="GET",
        path="/api/v1/events/trace",
        handler=trace_named,
        summary="Follow an event, by its source and id",
        response_schema="event-trace",
        query=(
            Query(name="source", description="The source of the event.", required=True),
            Query(name="id", description="The id of the event.", required=True),
            TYPE,
            *_QUERY,
        ),
    ),
    Operation(
        method="GET",
        path="/api/v1/events/{sequence}/trace",
        handler=trace_place,
        summary="Follow an event, by its place on the bus",
        response_schema="event-trace",
        query=_QUERY,
    ),
)
