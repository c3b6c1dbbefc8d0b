"""Dead letters: look at what could not be delivered, deliver it anew, or remove it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from starlette.responses import Response

from headrace.action_provider.api.access import endpoint_for, timestamp
from headrace.action_provider.api.asked import identifier, number
from headrace.action_provider.api.subscription_bodies import check_compiles
from headrace.action_provider.errors import InvalidRequest, NotFound, refused
from headrace.action_provider.http import Call, Operation, Query, reply
from headrace.bus.eventing.dead_letters import Attempt, DeadLetter, find, forget, newest, redrive
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.places import NO_ENDPOINT
from headrace.bus.filters import Filter, compile_filter
from headrace.bus.names import NO_FUNCTION, SINKS
from headrace.schemas import Violation

_DEFAULT = 100
_MOST = 1000


async def list_dead_letters(call: Call) -> Response:
    """The caller's dead letters, newest first: the event, why it was given up, and every attempt."""
    letters = await newest(
        call.service.connection,
        call.caller.principal,
        subscription=identifier(call, "subscription_id"),
        limit=number(call, "limit", default=_DEFAULT, most=_MOST),
    )
    return reply({"dead_letters": [_described(letter) for letter in letters]})


async def get(call: Call) -> Response:
    """One dead letter of the caller."""
    return reply(_described(await _own(call, call.path_id("dead_letter_id"))))


async def redrive_many(call: Call) -> Response:
    """Deliver dead letters anew, each from its first attempt on, also at another endpoint, and not all at once."""
    body, service = call.body, call.service
    endpoint = await _endpoint(call)
    letters = await _chosen(call)
    if endpoint is not None and any(letter.endpoint_id == SINKS for letter in letters):
        raise refused("/endpoint_id", "some of these were for a sink, which no endpoint stands in for")
    subscriptions = {each.subscription_id for each in letters}
    alive = {each for each in subscriptions if await _is_alive(call, each)}
    begin, per_second = datetime.now(UTC), body.get("per_second")
    redriven = 0
    for letter in reversed(letters):  # The oldest first.
        due = begin + timedelta(seconds=redriven / per_second) if per_second else begin
        if letter.subscription_id in alive and await redrive(service.connection, letter, endpoint=endpoint, due=due):
            redriven += 1
    return reply({"redriven": redriven, "left": len(letters) - redriven})


async def _is_alive(call: Call, subscription_id: UUID) -> bool:
    """Whether there is a subscription, or a replay that stands for one."""
    tables = call.service.tables
    found = await tables.subscriptions.get(subscription_id.hex) or await tables.replays.get(subscription_id.hex)
    return found is not None


async def purge_many(call: Call) -> Response:
    """Remove dead letters for good."""
    letters = await _chosen(call)
    for letter in letters:
        await forget(call.service.connection, letter)
    return reply({"purged": len(letters)})


async def _own(call: Call, dead_letter_id: UUID) -> DeadLetter:
    letter = await find(call.service.connection, call.caller.principal, dead_letter_id)
    if letter is None:
        raise NotFound(f"there is no dead letter {dead_letter_id} of yours")
    return letter


async def _endpoint(call: Call) -> UUID | None:
    given = call.body.get("endpoint_id")
    return None if given is None else (await endpoint_for(call.service, call.caller, UUID(given))).endpoint_id


async def _chosen(call: Call) -> list[DeadLetter]:
    """The letters that the body means, newest first."""
    body = call.body
    if not body.keys() & {"dead_letter_ids", "subscription_id", "code", "filter"}:
        raise InvalidRequest(
            "say which: dead_letter_ids, subscription_id, code or filter",
            violations=(Violation(pointer="", problem="say which: dead_letter_ids, subscription_id, code or filter"),),
        )
    wanted = check_compiles("/filter", compile_filter, body["filter"]) if "filter" in body else None
    if body.get("dead_letter_ids"):
        letters = [await _own(call, UUID(each)) for each in dict.fromkeys(body["dead_letter_ids"])]
    else:
        subscription = UUID(body["subscription_id"]) if body.get("subscription_id") else None
        letters = await newest(call.service.connection, call.caller.principal, subscription=subscription, limit=_MOST)
    chosen = [each for each in letters if _is_meant(each, body, wanted)]
    return chosen[: body.get("limit", _MOST)]


def _is_meant(letter: DeadLetter, body: dict[str, Any], wanted: Filter | None) -> bool:
    if body.get("subscription_id") and letter.subscription_id != UUID(body["subscription_id"]):
        return False
    if body.get("code") and letter.code != body["code"]:
        return False
    return wanted is None or (letter.event is not None and wanted.matches(CloudEvent.of_document(letter.event)))


def _described(letter: DeadLetter) -> dict[str, Any]:
    fields = msgspec.structs.asdict(letter)
    attempts = [_described_attempt(attempt) for attempt in letter.attempts]
    return {
        **fields,
        "function_id": None if letter.function_id == NO_FUNCTION else letter.function_id,
        "endpoint_id": None if letter.endpoint_id in (NO_ENDPOINT, SINKS) else letter.endpoint_id,
        "attempts": attempts,
        "created_at": timestamp(letter.created_at),
    }


def _described_attempt(attempt: Attempt) -> dict[str, Any]:
    fields = msgspec.structs.asdict(attempt)
    times = {name: fields[name] and timestamp(fields[name]) for name in ("started_at", "ended_at")}
    return {**fields, **times}


ROUTES = (
    Operation(
        method="GET",
        path="/api/v1/dead-letters",
        handler=list_dead_letters,
        summary="List deliveries that were given up",
        response_schema="dead-letter-list",
        query=(
            Query(
                name="subscription_id",
                description="Only those of this subscription.",
                schema={"type": "string", "format": "uuid"},
            ),
            Query(
                name="limit",
                description=f"At most so many; {_DEFAULT} where it is not given.",
                schema={"type": "integer", "minimum": 1, "maximum": _MOST},
            ),
        ),
    ),
    Operation(
        method="POST",
        path="/api/v1/dead-letters/redrive",
        handler=redrive_many,
        summary="Deliver anew what was given up",
        request_schema="dead-letter-redrive",
        response_schema="dead-letters-redriven",
    ),
    Operation(
        method="POST",
        path="/api/v1/dead-letters/purge",
        handler=purge_many,
        summary="Remove deliveries that were given up",
        request_schema="dead-letter-purge",
        response_schema="dead-letters-purged",
    ),
    Operation(
        method="GET",
        path="/api/v1/dead-letters/{dead_letter_id}",
        handler=get,
        summary="Read a delivery that was given up",
        response_schema="dead-letter",
    ),
)
