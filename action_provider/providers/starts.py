"""The beginning of an action: one record for each request id of a caller, whoever repeats it and however often."""

from __future__ import annotations

import time

import msgspec

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.errors import Conflict, NotFound
from headrace.action_provider.providers.provider import ActionRow, ProviderAddress
from headrace.action_provider.providers.requests import ActionRequest, duration_text
from headrace.action_provider.settings import ServiceSettings
from headrace.action_provider.state import Service
from headrace.bus.store.actions import ActionRecord, Start


def new_record(caller: Caller, at: ProviderAddress, request: ActionRequest, *, action_id: str) -> ActionRecord:
    """The record of an action that begins now."""
    return ActionRecord(
        action_id=action_id,
        provider=at.path,
        creator=caller.principal,
        request_id=request.request_id,
        request_digest=request.digest,
        started_at=time.time(),
        label=request.label,
        monitor_by=request.monitor_by,
        manage_by=request.manage_by,
        release_after=request.release_after,
        release_after_s=request.release_after_s,
        deadline=request.deadline,
    )


async def start(service: Service, request: ActionRequest, record: ActionRecord) -> Start:
    """Store the record, unless an equal request has started its action before; `created` tells who does the work.

    The id of the action is the record's, or that of the action which begins now after it has waited for a consent:
    `Start.record` has it. Make it findable with `Actions.publish_id` before anybody is told. Raises `Conflict` when the
    request id was used with other parameters.
    """
    actions = service.tables.actions
    record = _within_limits(service.settings, record)
    if request.resumes is not None:
        return await _go_on(service, request.resumes, record)
    begun = await actions.start(record)
    if not begun.created and begun.record.value.request_digest != request.digest:
        raise Conflict(f"a request with the id {request.request_id!r} was made before, with other parameters")
    return begun


async def _go_on(service: Service, waiting: ActionRow, record: ActionRecord) -> Start:
    was = waiting.value
    record = msgspec.structs.replace(
        record, action_id=was.action_id, started_at=was.started_at, history=was.history, creator=was.creator
    )
    begun = await service.tables.actions.begin(waiting, record)
    if begun is None:
        raise NotFound(f"the action {was.action_id!r} was released in this moment")
    return begun


def _within_limits(settings: ServiceSettings, record: ActionRecord) -> ActionRecord:
    """The record with a deadline that everybody can count on, and a release that comes one day."""
    latest = record.started_at + settings.longest_action_s
    record = msgspec.structs.replace(record, deadline=min(record.deadline or latest, latest))
    if record.release_after_s <= settings.longest_release_after_s:
        return record
    most_s = settings.longest_release_after_s
    return msgspec.structs.replace(record, release_after=duration_text(most_s), release_after_s=most_s)
