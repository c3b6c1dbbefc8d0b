"""Filters tried before they are switched on: why an event passes or not, and what would have passed until now."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from starlette.responses import Response

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.api.bus_access import check_right
from headrace.action_provider.api.subscription_bodies import check_compiles
from headrace.action_provider.api.subscriptions import own_subscription
from headrace.action_provider.errors import NotFound, refused
from headrace.action_provider.http import Call, Operation, reply
from headrace.bus.errors import InputFailed
from headrace.bus.eventing.arrivals import arrived_after, sequence_before
from headrace.bus.eventing.backtest import backtest
from headrace.bus.eventing.events import DEFAULT_BUS, CloudEvent
from headrace.bus.eventing.templates import compile_input
from headrace.bus.filters import Filter, compile_filter

_DEFAULT_AGE = timedelta(days=1)
_DEFAULT_SAMPLES = 10


async def explain(call: Call) -> Response:
    """Say why an event passes a filter, or does not, clause by clause; and what the function would be called with."""
    wanted, template = await _tried(call)
    event, sequence = await _event(call)
    explanation = wanted.explain(event)
    answer: dict[str, Any] = {
        "passed": explanation.passed,
        "explanation": explanation.document(),
        "event": event.document,
        "sequence": sequence,
        "arguments": None,
        "input_error": None,
    }
    if explanation.passed:
        try:
            arguments = check_compiles("/input", compile_input, template).render(event)
            answer["arguments"] = {"args": arguments.args, "kwargs": arguments.kwargs}
        except InputFailed as error:
            answer["input_error"] = str(error)
    return reply(answer)


async def try_on_the_past(call: Call) -> Response:
    """Say which of the events that the bus still holds would have passed a filter. Nothing runs."""
    wanted, _ = await _tried(call)
    bus = await check_right(call.service, call.caller, call.body.get("bus") or DEFAULT_BUS, "subscribe")
    after = call.body.get("after")
    if after is None:
        after = await sequence_before(call.service.connection, _moment(call.body.get("since")), bus=bus)
    samples = call.body.get("samples", _DEFAULT_SAMPLES)
    found = await backtest(call.service.connection, bus, wanted, after=after, samples=samples)
    return reply(
        {
            "scanned": found.scanned,
            "matched": found.matched,
            "next": found.position if found.more else None,
            "samples": [
                {"sequence": each.sequence, "stored_at": timestamp(each.stored_at), "event": each.event.document}
                for each in found.samples
                if each.event is not None
            ],
        }
    )


async def _tried(call: Call) -> tuple[Filter, Any]:
    """The filter, and the input template beside it, of the body or of a subscription."""
    body = call.body
    if (body.get("subscription_id") is None) == ("filter" not in body):
        raise refused("/filter", "give a filter or a subscription_id, one of them")
    if "filter" in body:
        return check_compiles("/filter", compile_filter, body["filter"]), body.get("input")
    record = await own_subscription(call, UUID(body["subscription_id"]))
    return compile_filter(record.filter), body.get("input", record.input)


async def _event(call: Call) -> tuple[CloudEvent, int | None]:
    given, sequence = call.body.get("event"), call.body.get("sequence")
    if (given is None) == (sequence is None):
        raise refused("/event", "give an event or the sequence of one, one of them")
    if sequence is None:
        return CloudEvent.of_document(given), None
    bus = await check_right(call.service, call.caller, call.body.get("bus") or DEFAULT_BUS, "subscribe")
    arrived, _ = await arrived_after(call.service.connection, bus, sequence - 1)
    if not arrived or arrived[0].sequence != sequence or arrived[0].event is None:
        raise NotFound(f"the bus {bus!r} holds no event {sequence} (any more)")
    return arrived[0].event, sequence


def _moment(since: str | None) -> datetime:
    if since is None:
        return datetime.now(UTC) - _DEFAULT_AGE
    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        raise refused("/since", f"{since[:64]!r} is not a time such as 2026-03-01T00:00:00Z") from None
    if moment.tzinfo is None:
        raise refused("/since", f"{since[:64]!r} has no time zone; write Z or an offset behind it")
    if moment.timestamp() > time.time():
        raise refused("/since", f"{since[:64]!r} has not come yet")
    return moment


ROUTES = (
    Operation(
        method="POST",
        path="/api/v1/filters/explain",
        handler=explain,
        summary="Explain why an event passes a filter, or does not",
        request_schema="filter-explanation-request",
        response_schema="filter-explanation",
    ),
    Operation(
        method="POST",
        path="/api/v1/filters/backtest",
        handler=try_on_the_past,
        summary="Try a filter on the events of the past",
        request_schema="filter-backtest-request",
        response_schema="filter-backtest",
    ),
)
