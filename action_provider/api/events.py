"""Events: publish one."""

from __future__ import annotations

from starlette.responses import Response

from headrace.action_provider.bodies import parse_json, read_body
from headrace.action_provider.errors import MalformedRequest, UnsupportedMediaType
from headrace.action_provider.http import Call, Operation, reply
from headrace.bus.eventing import events
from headrace.bus.eventing.events import CONTENT_TYPE, MOST_EVENT_BYTES, CloudEvent


async def publish(call: Call) -> Response:
    """Store one event (a CloudEvent in the structured form). The same `source` and `id` are stored once."""
    _check_content_type(call.request.headers.get("content-type", ""))
    body = await read_body(call.request, limit=MOST_EVENT_BYTES, timeout_s=call.service.settings.body_timeout_s)
    if not body.strip():
        raise MalformedRequest("this needs an event as its body; its schema is /schemas/event")
    event = CloudEvent.of_document(parse_json(body))
    published = await events.publish(call.service.connection, event)
    answer = {
        "id": event.id,
        "source": event.source,
        "sequence": published.sequence,
        "duplicate": published.duplicate,
    }
    return reply(answer, 202)


def _check_content_type(given: str) -> None:
    media_type, _, parameters = given.partition(";")
    charset = parameters.lower().replace(" ", "").replace('"', "")
    if media_type.strip().lower() != CONTENT_TYPE or charset not in ("", "charset=utf-8"):
        raise UnsupportedMediaType(
            f"an event is taken as {CONTENT_TYPE} (the structured form, in UTF-8), not as {given[:80] or 'nothing'!r}"
        )


ROUTES = (
    Operation(
        method="POST",
        path="/api/v1/events",
        handler=publish,
        summary="Publish an event",
        request_schema="event",
        response_schema="event-published",
        status=202,
        reads_body=False,
        request_type=CONTENT_TYPE,
    ),
)
