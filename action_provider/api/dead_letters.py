"""Dead letters: look at what could not be delivered."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from starlette.responses import Response

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.errors import InvalidRequest
from headrace.action_provider.http import Call, Operation, Query, reply
from headrace.bus.eventing.dead_letters import Attempt, DeadLetter, newest
from headrace.schemas import Violation

_DEFAULT = 100
_MOST = 1000


async def list_dead_letters(call: Call) -> Response:
    """The caller's dead letters, newest first: the event, why it was given up, and every attempt."""
    letters = await newest(
        call.service.connection, call.caller.principal, subscription=_subscription(call), limit=_limit(call)
    )
    return reply({"dead_letters": [_described(letter) for letter in letters]})


def _subscription(call: Call) -> UUID | None:
    given = call.query("subscription_id")
    if given is None:
        return None
    try:
        return UUID(given)
    except ValueError:
        raise _refusal("subscription_id", f"{given[:80]!r} is not a UUID") from None


def _limit(call: Call) -> int:
    given = call.query("limit")
    if given is None:
        return _DEFAULT
    if not given.isascii() or not given.isdecimal() or len(given) > 9 or not 1 <= int(given) <= _MOST:
        raise _refusal("limit", f"{given[:40]!r} is not a number from 1 to {_MOST}")
    return int(given)


def _refusal(name: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{name}: {problem}", violations=(Violation(pointer=f"?{name}", problem=problem),))


def _described(letter: DeadLetter) -> dict[str, Any]:
    fields = msgspec.structs.asdict(letter)
    attempts = [_described_attempt(attempt) for attempt in letter.attempts]
    return {**fields, "attempts": attempts, "created_at": timestamp(letter.created_at)}


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
)
