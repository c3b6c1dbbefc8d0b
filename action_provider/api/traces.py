"""Traces: for one event everything that followed from it, as far as it is the caller's to see.

The owner of a subscription sees its deliveries, whoever published the event that it was stored, and an administrator
everything.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from starlette.responses import Response

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.api.asked import number, refusal, truth
from headrace.action_provider.api.stored_events import (
    BUS,
    TYPE,
    asked_bus,
    asked_event,
    named_event,
    stored_document,
)
from headrace.action_provider.errors import NotFound
from headrace.action_provider.http import Call, Operation, Query, reply
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.eventing.traces.stories import AttemptStory, Story
from headrace.bus.eventing.traces.tracing import Trace, Traced, Tried, trace, trace_one

_DEFAULT = 50
_MOST = 200
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
    return await _trace(call, Traced(asked_bus(call), event.source, event.id, arrived))


async def trace_named(call: Call) -> Response:
    """Everything that followed from an event, by its source and id.

    It is looked for among the newest 50 000 events of the bus (of its type, where that is named). Where it is not
    found, or was forgotten, its deliveries are looked up all the same; whether a subscription matched is not known
    then.
    """
    source, event_id, arrived = await named_event(call)
    return await _trace(call, Traced(asked_bus(call), source, event_id, arrived))


async def _trace(call: Call, event: Traced) -> Response:
    service, explain = call.service, truth(call, "explain")
    subscription = _subscription(call)
    rows = await service.tables.replays.list()
    replays = [row.value for row in rows if call.caller.admin or call.caller.is_(row.value.owner)]
    if subscription is not None:
        row = await service.tables.subscriptions.get(subscription.hex)
        if row is None or not _visible(call, row.value):
            raise NotFound(f"there is no subscription {subscription} of yours")
        found = await trace_one(service.connection, service.keys, row, event, explain=explain, replays=replays)
    else:
        found = await trace(
            service.connection,
            service.keys,
            service.tables.subscriptions,
            event,
            is_visible=lambda record: _visible(call, record),
            explain=explain,
            limit=number(call, "limit", default=_DEFAULT, most=_MOST),
            start=number(call, "start", default=1, most=_LARGEST),
            replays=replays,
        )
    return reply(_document(call, event, found))


def _visible(call: Call, record: SubscriptionRecord) -> bool:
    return call.caller.admin or call.caller.is_(record.owner)


def _subscription(call: Call) -> UUID | None:
    given = call.query("subscription_id")
    try:
        return None if given is None else UUID(given)
    except ValueError:
        raise refusal("subscription_id", f"{str(given)[:80]!r} is not a UUID") from None


def _document(call: Call, event: Traced, found: Trace) -> dict[str, Any]:
    return {
        "bus": event.bus,
        "source": event.source,
        "id": event.event_id,
        "stored": None if event.arrived is None else stored_document(call, event.arrived),
        "subscriptions": [_tried(each) for each in found.tried],
        "passed_over": found.passed_over,
        "next": found.next,
    }


def _tried(tried: Tried) -> dict[str, Any]:
    record = tried.record
    return {
        "subscription_id": record.subscription_id,
        "name": record.name,
        "owner": record.owner,
        "function_id": record.function_id,
        "matched": tried.matched,
        "explanation": None if tried.explanation is None else tried.explanation.document(),
        "deliveries": [_delivery(story) for story in tried.stories],
    }


def _delivery(story: Story) -> dict[str, Any]:
    letter = story.letter
    return {
        "state": story.state,
        "replay_id": story.delivery.replay,
        "endpoint_id": story.endpoint,
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
    }


def _attempt(attempt: AttemptStory) -> dict[str, Any]:
    texts = {name: text for name in _TEXTS if (text := getattr(attempt, name))}
    times = {name: timestamp(at) for name in _TIMES if 0 < (at := getattr(attempt, name)) < _YEAR_9999_S}
    return {
        "attempt": attempt.attempt,
        "task_id": attempt.task_id,
        "endpoint_id": attempt.endpoint_id,
        "state": attempt.state,
        **texts,
        **times,
    }


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
