"""The life of an action, whatever its provider: missing consents, resuming, deadlines, the log around the provider's.

          ┌────────── resume ──────────┐
          ▼                            │
run ─▶ ACTIVE ── ConsentRequired ─▶ INACTIVE
          │                            │
          └─▶ SUCCEEDED | FAILED ◀─────┘  the end; cancel; the deadline
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import msgspec

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.errors import ConsentRequired, Forbidden, InvalidRequest, NotFound
from headrace.action_provider.providers.documents import timestamp
from headrace.action_provider.providers.provider import CANCELLED, TOO_LATE, ActionRow, Ending, Provider
from headrace.action_provider.providers.registry import Place
from headrace.action_provider.providers.requests import ActionRequest, check_deadline
from headrace.action_provider.providers.starts import new_record, start
from headrace.action_provider.state import Service
from headrace.bus.store.action_keys import new_action_id
from headrace.bus.store.actions import ActionRecord, Happening, Start, Waiting

logger = logging.getLogger(__name__)

_MOST_HISTORY = 100


async def run(service: Service, place: Place, caller: Caller, request: ActionRequest) -> Start:
    """Start the action of a request, or find it. Raises `ServiceError`."""
    try:
        check_deadline(request)
    except InvalidRequest:
        # It had not passed when the request that this one repeats was made.
        found = await service.tables.actions.of_request(place.at.path, caller.principal, request.request_id)
        if found is None or found.value.request_digest != request.digest:
            raise
        return Start(await status(service, place.provider, found), created=False)
    begun = await _begun(service, place, caller, request)
    if not begun.record.value.final:
        # From here on its end and its deadline come though nobody asks.
        await service.tables.actions.list_open(begun.record)
    return begun


async def _begun(service: Service, place: Place, caller: Caller, request: ActionRequest) -> Start:
    try:
        return await place.provider.run(service, caller, place.at, request)
    except ConsentRequired as needed:
        action_id = str(new_action_id(place.at.path, caller.principal, request.request_id))
        record = new_record(caller, place.at, request, action_id=action_id)
        waiting = Waiting(request=dict(request.document), query=dict(place.at.query))
        begun = await start(service, request, inactive(record, needed, waiting))
        if begun.created:
            await service.tables.actions.publish_id(begun.record)
        return begun


async def status(service: Service, provider: Provider, action: ActionRow) -> ActionRow:
    """The action as it is now; whoever sees an end, or a missing consent, finds it written."""
    if action.value.status == "INACTIVE":
        return await _unless_late(service, provider, action)
    try:
        action = await provider.status(service, action)
    except ConsentRequired as needed:
        if action.value.final:
            return action
        return await _change(service, action, inactive(action.value, needed, None))
    return await _unless_late(service, provider, action)


async def cancel(service: Service, provider: Provider, action: ActionRow, why: Ending = CANCELLED) -> ActionRow:
    """End the action. It is FAILED from now on; what has ended stays as it is."""
    if action.value.final:
        return await status(service, provider, action)
    if action.value.waiting is None:
        try:
            return await provider.cancel(service, action, why)
        except ConsentRequired:
            # Whatever it may be doing elsewhere, nobody can stop it with the rights that are left.
            logger.info("An action was ended without the consent that its provider wants for that.")
    if action.value.final:
        return action
    return await finish(service, action, why)


async def resume(service: Service, place: Place, caller: Caller, action: ActionRow) -> ActionRow:
    """Try again, with the caller's rights, what lacked a consent; any other action stays as it is.

    Raises `Forbidden` when the caller is not who started it, and `ServiceError` as `run` does.
    """
    action = await status(service, place.provider, action)
    record = action.value
    if record.status != "INACTIVE":
        return action
    if not caller.is_(record.creator):
        raise Forbidden("only who started this action can resume it: the consent must be theirs")
    caller = replace(caller, principal=record.creator)
    resumed = _told(record, "ActionResumed", "The action was resumed")
    try:
        if record.waiting is not None:
            request = replace(ActionRequest.read(record.waiting.request), resumes=replace(action, value=resumed))
            at = replace(place.at, query=record.waiting.query)
            return (await place.provider.run(service, caller, at, request)).record
        goes_on = msgspec.structs.replace(resumed, status="ACTIVE", details=None, display_status="")
        action = await _change(service, action, goes_on)
        return await place.provider.resume(service, caller, action)
    except ConsentRequired as needed:
        return await _change(service, action, inactive(action.value, needed, action.value.waiting))


async def finish(service: Service, action: ActionRow, why: Ending) -> ActionRow:
    """Write an end that nothing else is to be said of. Raises `NotFound` when it was released in this moment."""
    record = msgspec.structs.replace(
        action.value,
        status="FAILED",
        display_status=why.display_status,
        details={"code": why.code, "description": why.description},
        ended_at=time.time(),
        waiting=None,
    )
    return _there(await service.tables.actions.finish(action, record), record)


async def log(service: Service, provider: Provider, action: ActionRow) -> list[dict[str, Any]]:
    """Everything that happened, oldest first: what the provider says, between the beginning and the end."""
    action = await status(service, provider, action)
    record = action.value
    entries = [] if record.waiting is not None else await provider.log(service, action)
    entries += [_entry(happening.at, happening.code, happening.description) for happening in record.history]
    entries.sort(key=lambda entry: str(entry["time"]))
    entries.insert(0, _entry(record.started_at, "ActionStarted", "The action started"))
    if record.ended_at is not None:
        entries.append(_entry(record.ended_at, f"Action{record.status.capitalize()}", record.display_status))
    return entries


async def _unless_late(service: Service, provider: Provider, action: ActionRow) -> ActionRow:
    deadline = action.value.deadline
    if action.value.final or deadline is None or time.time() <= deadline:
        return action
    return await cancel(service, provider, action, TOO_LATE)


def inactive(record: ActionRecord, needed: ConsentRequired, waiting: Waiting | None) -> ActionRecord:
    """The action as it is while a consent is missing; `waiting` is what it will begin with, if it has not begun."""
    return msgspec.structs.replace(
        _told(record, "ActionInactive", needed.detail),
        status="INACTIVE",
        display_status="Consent required",
        details=needed.action_details,
        waiting=waiting,
    )


def _told(record: ActionRecord, code: str, description: str) -> ActionRecord:
    happening = Happening(at=time.time(), code=code, description=description)
    return msgspec.structs.replace(record, history=(*record.history, happening)[-_MOST_HISTORY:])


async def _change(service: Service, action: ActionRow, record: ActionRecord) -> ActionRow:
    return _there(await service.tables.actions.change(action, record), record)


def _there(stored: ActionRow | None, record: ActionRecord) -> ActionRow:
    if stored is None:
        raise NotFound(f"the action {record.action_id!r} was released in this moment")
    return stored


def _entry(at: float, code: str, description: str) -> dict[str, Any]:
    return {"time": timestamp(at), "code": code, "description": description}
