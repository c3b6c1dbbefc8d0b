"""`/actions/events/wait`: the action is ACTIVE until events have come that a filter lets pass, and gives them.

What it waits for, and how far it has looked, is in its record; every service with a dispatcher looks
(`headrace.bus.eventing.waiter`), so it ends without anybody asking, and a status costs nothing beside the record.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from headrace.action_provider.api.bus_access import check_bus
from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.errors import InvalidRequest, NotFound
from headrace.action_provider.providers.documents import timestamp
from headrace.action_provider.providers.provider import (
    CANCELLED,
    TOO_LATE,
    ActionRow,
    Description,
    Ending,
    Provider,
    ProviderAddress,
)
from headrace.action_provider.providers.requests import ActionRequest, check_body, duration_s
from headrace.action_provider.providers.starts import new_record, start
from headrace.action_provider.state import Service
from headrace.bus.errors import FilterInvalid
from headrace.bus.eventing.arrivals import sequence_before
from headrace.bus.eventing.events import DEFAULT_BUS
from headrace.bus.eventing.subscriptions import last_sequence
from headrace.bus.eventing.waits import (
    Wait,
    catch_up,
    end,
    failure,
    forget,
    found_details,
    save,
    too_late,
)
from headrace.bus.filters import compile_filter
from headrace.bus.store.action_keys import new_action_id
from headrace.bus.store.actions import EventWait, Start, WaitRecord
from headrace.schemas import Violation, schema

_LONGEST_S: Final = 30 * 86_400.0
"""No action waits longer."""
_MOST_LATE_PAGES: Final = 20
_MOST_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class WaitProvider(Provider):
    """`/actions/events/wait`."""

    path: str = "/actions/events/wait"
    _attended: set[str] = field(default_factory=set, repr=False, compare=False)
    """Actions that are known to be looked after: a crash may leave one that is not."""

    async def describe(self, service: Service, at: ProviderAddress) -> Description:
        """What it says of itself."""
        return Description(
            title="Headrace: wait for an event",
            subtitle="A step that goes on when something has happened",
            description=(
                "Is ACTIVE until one event, or `count` events, have been published that the filter lets pass, and gives"
                " them. Events count that are stored after the action started, or after what `since` says. It fails"
                " with the code DeadlineExceeded when they have not come in time."
            ),
            keywords=("event", "cloudevents", "wait", "headrace"),
            input_schema=schema("events-wait-body"),
        )

    async def run(self, service: Service, caller: Caller, at: ProviderAddress, request: ActionRequest) -> Start:
        """Begin to wait, once for each request id of the caller. Raises `InvalidRequest`."""
        body = request.body
        check_body("events-wait-body", body)
        bus = await check_bus(service, caller, body.get("bus") or DEFAULT_BUS, "subscribe")
        try:
            compile_filter(body["filter"])
        except FilterInvalid as error:
            raise _refused("filter", error.pointer, "filter", str(error)) from None
        since = await _position(service, bus, body.get("since"))
        action_id = str(new_action_id(at.path, caller.principal, request.request_id))
        record = new_record(caller, at, request, action_id=action_id)
        wait = EventWait(bus=bus, filter=body["filter"], since=since, position=since, count=body.get("count") or 1)
        record = msgspec.structs.replace(record, wait=wait, deadline=_deadline(request, record.started_at))
        begun = await start(service, request, record)
        action = begun.record
        if not action.value.final:
            action = await self._begin(service, action, look_back=body.get("since") is not None)
        return replace(begun, record=_shown(action))

    async def _begin(self, service: Service, action: ActionRow, *, look_back: bool) -> ActionRow:
        """Have it looked after, also when an equal request was interrupted here; what has come already is found now."""
        actions = service.tables.actions
        await asyncio.gather(actions.publish_id(action), self._attend(service, action))
        if not look_back:
            return action
        wait = Wait(action)
        try:
            async with asyncio.timeout(service.settings.run_wait_s):
                await catch_up(service.connection, wait)
        except TimeoutError:
            return action  # There is much to look at: whoever looks after it goes on with that.
        if wait.complete or wait.has_news:
            await save(actions, wait)
        return wait.row

    async def _attend(self, service: Service, action: ActionRow) -> None:
        """Tell those who look at events of this action."""
        pointer = WaitRecord(action_id=action.value.action_id, bus=_state(action).bus)
        await service.tables.actions.waits.put(action.key, pointer, ttl_s=_LONGEST_S * 2)
        self._remember(action)

    def _remember(self, action: ActionRow) -> None:
        if len(self._attended) >= _MOST_REMEMBERED:
            self._attended.clear()
        self._attended.add(action.value.action_id)

    async def status(self, service: Service, action: ActionRow) -> ActionRow:
        """The action as its record has it."""
        if not action.value.final and action.value.action_id not in self._attended:
            found = await service.tables.actions.waits.get(action.key)
            if found is None or found.value.ended:
                await self._attend(service, action)
            else:
                self._remember(action)
        return _shown(action)

    async def cancel(self, service: Service, action: ActionRow, why: Ending = CANCELLED) -> ActionRow:
        """Wait no more. What came before the deadline, and nobody has looked at, counts nevertheless."""
        actions = service.tables.actions
        wait = Wait(action)
        if why is TOO_LATE:
            await catch_up(service.connection, wait, most_pages=_MOST_LATE_PAGES)
        if wait.complete:
            await save(actions, wait)
            return wait.row
        ended = too_late(action.value, wait.state)
        if why is not TOO_LATE:
            ended = failure(
                action.value,
                wait.state,
                code=why.code,
                description=why.description,
                display_status=why.display_status,
            )
        stored = await end(actions, wait.row, ended)
        if stored is None:
            raise NotFound(f"the action {action.value.action_id!r} was released in this moment")
        await forget(actions, await actions.waits.get(stored.key))
        return stored

    async def release(self, service: Service, action: ActionRow) -> None:
        """Nothing is kept beside the record."""

    async def log(self, service: Service, action: ActionRow) -> list[dict[str, Any]]:
        """The events that were found."""
        return [
            {
                "time": timestamp(each.at),
                "code": "EventFound",
                "description": f"Event {each.event['id']} of {each.event['source']}",
                "details": {"sequence": each.sequence, "type": each.event["type"]},
            }
            for each in _state(action).found
        ]


def _state(action: ActionRow) -> EventWait:
    if action.value.wait is None:
        raise NotFound(f"the action {action.value.action_id!r} waits for no event")
    return action.value.wait


def _shown(action: ActionRow) -> ActionRow:
    """An action that goes on, with how far it has come."""
    if action.value.status != "ACTIVE":
        return action
    state = _state(action)
    wanted = "an event" if state.count == 1 else f"{state.count} events"
    status = f"{len(state.found)} of {state.count} events came" if state.found else f"Waits for {wanted}"
    details = {"count": state.count, **found_details(state)}
    return replace(action, value=msgspec.structs.replace(action.value, details=details, display_status=status))


def _deadline(request: ActionRequest, started_at: float) -> float:
    """Until when it waits. Raises `InvalidRequest`."""
    latest = started_at + _LONGEST_S
    timeout = request.body.get("timeout")
    if isinstance(timeout, str):
        timeout = duration_s(timeout)
    if timeout is not None and timeout <= 0:
        raise _refused("timeout", "", "minimum", "more than 0 seconds are needed")
    given = [each for each in (request.deadline, None if timeout is None else started_at + timeout) if each is not None]
    return min([latest, *given])


async def _position(service: Service, bus: str, since: Any) -> int:
    """The sequence after which events of a bus count. Raises `InvalidRequest`."""
    if since is None:
        return await last_sequence(service.connection, bus=bus)
    if isinstance(since, int):
        return since
    if since == "earliest":
        return 0
    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        raise _refused(
            "since", "", "format", f"{since[:64]!r} is neither a time (RFC 3339), nor a sequence, nor 'earliest'"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if moment.timestamp() >= time.time():
        raise _refused("since", "", "maximum", f"{since[:64]!r} has not come yet")
    return await sequence_before(service.connection, moment, bus=bus)


def _refused(name: str, pointer: str, category: str, problem: str) -> InvalidRequest:
    violation = Violation(pointer=f"/{name}{pointer}", problem=problem, keyword=category)
    where = f"$.{name}{pointer.replace('/', '.')}"
    return InvalidRequest(f"Field '{where}' (category: '{category}'): {problem}", violations=(violation,))
