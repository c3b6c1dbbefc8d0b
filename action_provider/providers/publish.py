"""`/actions/events/publish`: the body is an event; the action has ended, and the event is stored, when `run` answers.

The event is in the action's record before it is published, so whoever repeats the request, or asks for the status after
a crash, publishes that one. Its id begins with the action's where the body gives none.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from headrace.action_provider.api.bus_access import check_bus
from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.errors import InvalidRequest, NotFound
from headrace.action_provider.providers.provider import CANCELLED, ActionRow, Description, Ending, Provider
from headrace.action_provider.providers.provider import ProviderAddress as Address
from headrace.action_provider.providers.requests import ActionRequest, body_problems
from headrace.action_provider.providers.starts import new_record, start
from headrace.action_provider.state import Service
from headrace.bus.errors import PayloadTooLarge
from headrace.bus.eventing.events import DEFAULT_BUS, MOST_EVENT_BYTES, CloudEvent
from headrace.bus.store.action_keys import new_action_id
from headrace.bus.store.actions import Start
from headrace.schemas import SchemaViolation, schema

_BUS: Final = "bus"
_EVENT: Final = "event"


@dataclass(frozen=True, slots=True)
class PublishProvider(Provider):
    """`/actions/events/publish`."""

    path: str = "/actions/events/publish"

    async def describe(self, service: Service, at: Address) -> Description:
        """What it says of itself."""
        return Description(
            title="Headrace: publish an event",
            subtitle="Tell whoever subscribes",
            description=(
                "Stores one CloudEvent on a bus, where subscriptions and waiting actions find it. The action has ended"
                " when the answer comes. Without an `id` the event has one of its own for each action, so that a"
                " repeated request publishes one event."
            ),
            keywords=("event", "cloudevents", "publish", "headrace"),
            input_schema=_input_schema(),
            synchronous=True,
        )

    async def run(self, service: Service, caller: Caller, at: Address, request: ActionRequest) -> Start:
        """Publish the event of the body, once for each request id of the caller. Raises `InvalidRequest`."""
        action_id = str(new_action_id(at.path, caller.principal, request.request_id))
        bus = await check_bus(service, caller, request.body.get(_BUS) or DEFAULT_BUS, "publish")
        # The id of an action may come again, once it was released; that of an event must not.
        event = _event(request.body, f"{action_id}-{secrets.token_hex(8)}")
        record = new_record(caller, at, request, action_id=action_id)
        details = {_BUS: bus, _EVENT: dict(event.document)}
        begun = await start(service, request, msgspec.structs.replace(record, details=details))
        action = await self.status(service, begun.record)
        await service.tables.actions.publish_id(action)
        return replace(begun, record=action)

    async def status(self, service: Service, action: ActionRow) -> ActionRow:
        """The action, ended: what a crash left undone is done."""
        record = action.value
        if record.final or record.details is None:
            return action
        event = CloudEvent.of_document(record.details[_EVENT])
        bus = str(record.details[_BUS])
        published = await service.publishing.publish(event, bus=bus, publisher=record.creator)
        details = {
            _BUS: bus,
            "id": event.id,
            "source": event.source,
            "sequence": published.sequence,
            "duplicate": published.duplicate,
        }
        end = msgspec.structs.replace(
            record,
            status="SUCCEEDED",
            display_status="The event was there before" if published.duplicate else "Published",
            details=details,
            ended_at=time.time(),
        )
        finished = await service.tables.actions.finish(action, end)
        if finished is None:
            raise NotFound(f"the action {record.action_id!r} was released in this moment")
        return finished

    async def cancel(self, service: Service, action: ActionRow, why: Ending = CANCELLED) -> ActionRow:
        """Nothing can be cancelled: it has ended."""
        return await self.status(service, action)

    async def release(self, service: Service, action: ActionRow) -> None:
        """Nothing is kept beside the record; the event stays on its bus."""

    async def log(self, service: Service, action: ActionRow) -> list[dict[str, Any]]:
        """Nothing happens between the beginning and the end."""
        return []


def _input_schema() -> dict[str, Any]:
    event = schema(_EVENT)
    bus = {"type": ["string", "null"], "title": "Bus", "default": DEFAULT_BUS, "description": "Where it is published."}
    properties = {_BUS: bus, **{name: each for name, each in event["properties"].items() if name != "specversion"}}
    properties["id"] = {**properties["id"], "description": "Names the event together with its source; by default new."}
    return {
        **{name: each for name, each in event.items() if name not in ("examples", "title", "description")},
        "required": ["type", "source"],
        "properties": properties,
    }


def _event(body: Mapping[str, Any], event_id: str) -> CloudEvent:
    """The event of a body. Raises `InvalidRequest` and `PayloadTooLarge`."""
    given = {name: value for name, value in body.items() if name != _BUS and value is not None}
    if "data" in body:
        given["data"] = body["data"]
    try:
        event = CloudEvent.of_document({"specversion": "1.0", "id": event_id, **given})
    except SchemaViolation as error:
        raise InvalidRequest(body_problems(error.violations), violations=error.violations) from None
    size = len(event.encode())
    if size > MOST_EVENT_BYTES:
        raise PayloadTooLarge(
            f"an event of {size} bytes; at most {MOST_EVENT_BYTES} bytes are taken. Store the data elsewhere and send a"
            " reference to it",
            size=size,
            limit=MOST_EVENT_BYTES,
        )
    return event
