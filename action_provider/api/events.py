"""Events: publish one, or a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from starlette.responses import Response

from headrace.action_provider.api.bus_access import check_right
from headrace.action_provider.bodies import parse_json, read_body
from headrace.action_provider.errors import Forbidden, MalformedRequest, UnsupportedMediaType
from headrace.action_provider.http import Call, Handler, Operation, reply
from headrace.bus.errors import EventRefused
from headrace.bus.eventing.bindings import BATCH_CONTENT_TYPE, Mode, mode_of, read_batch, read_event
from headrace.bus.eventing.events import CONTENT_TYPE, DEFAULT_BUS, MOST_EVENT_BYTES, CloudEvent, Published

_BESIDE_BYTES = 64_000


async def publish(call: Call) -> Response:
    """Store one CloudEvent, in the structured or the binary form, or a batch of them.

    A batch is stored whole, or refused with the positions of what is wrong. The same `source` and `id` are stored once.
    """
    bus = call.request.path_params.get("name", DEFAULT_BUS)
    await check_right(call.service, call.caller, bus, "publish")
    content_type = call.request.headers.get("content-type", "")
    settings = call.service.settings
    limit = settings.body_bytes if _mode(content_type) == "batch" else MOST_EVENT_BYTES
    body = await read_body(call.request, limit=limit, timeout_s=settings.body_timeout_s)
    return reply(await publish_body(call, content_type, body, bus=bus, publisher=call.caller.principal), 202)


async def publish_to_bus(call: Call) -> Response:
    """As `POST /api/v1/events`, to a bus on which the caller may publish; what the bus says of the type is checked."""
    return await publish(call)


async def publish_body(
    call: Call, content_type: str, body: bytes, *, publisher: str, bus: str = DEFAULT_BUS, check: bool = False
) -> dict[str, Any]:
    """Store the events of a request whose body has been read; gives what to answer. `publisher` is noted beside them;
    `check` whether they may publish there, where that is not the caller.

    Raises what is to be answered.
    """
    mode = _mode(content_type)
    if mode != "binary" and not body.strip():
        raise MalformedRequest("this needs an event as its body; its schema is /schemas/event")
    publishing = call.service.publishing
    if mode == "batch":
        batch = await _read_batch(body)
        _check_sources(call, batch)
        published = await publishing.publish_together(batch, bus=bus, publisher=publisher, check=check)
        return {"events": [published_document(*each) for each in zip(batch, published, strict=True)]}
    try:
        event = read_event(content_type, call.request.headers, body, parse_json)
    except EventRefused as error:
        raise UnsupportedMediaType(str(error)) from None
    _check_sources(call, [event])
    published_one = await publishing.publish(event, bus=bus, publisher=publisher, check=check)
    return published_document(event, published_one)


def _check_sources(call: Call, published: Sequence[CloudEvent]) -> None:
    """An endpoint's own token speaks of that endpoint alone, a publisher's of its source. Raises `Forbidden`."""
    caller = call.known_caller
    if caller is None:
        return
    own = caller.publishes or ("" if caller.endpoint_id is None else f"/endpoints/{caller.endpoint_id}/")
    for event in published:
        if not event.source.startswith(own):
            raise Forbidden(
                f"this token may only publish events whose source begins with {own}; this one is of {event.source[:80]}"
            )


def _mode(content_type: str) -> Mode:
    try:
        return mode_of(content_type)
    except EventRefused as error:
        raise UnsupportedMediaType(str(error)) from None


async def _read_batch(body: bytes) -> list[CloudEvent]:
    read = partial(read_batch, body, parse_json)
    try:
        # A large one is read beside the loop, or everybody else would wait for it.
        return await asyncio.to_thread(read) if len(body) > _BESIDE_BYTES else read()
    except EventRefused as error:
        raise MalformedRequest(str(error)) from None


def published_document(event: CloudEvent, published: Published) -> dict[str, Any]:
    """What is answered about one event."""
    return {
        "id": event.id,
        "source": event.source,
        "sequence": published.sequence,
        "duplicate": published.duplicate,
        **({"problem": published.problem} if published.problem else {}),
    }


def _published_at(path: str, handler: Handler, summary: str) -> Operation:
    return Operation(
        method="POST",
        path=path,
        handler=handler,
        summary=summary,
        request_schema="event",
        response_schema="publication",
        status=202,
        auth="publisher",
        for_publishers=True,
        reads_body=False,
        request_type=CONTENT_TYPE,
        other_requests=((BATCH_CONTENT_TYPE, "event-batch"),),
    )


ROUTES = (
    _published_at("/api/v1/events", publish, "Publish an event, or a batch of events"),
    _published_at("/api/v1/buses/{name}/events", publish_to_bus, "Publish an event, or a batch of events, to a bus"),
)
