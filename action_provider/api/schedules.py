"""Schedules: create, list, read, preview, pause, delete."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.responses import Response

from headrace.action_provider.api.access import timestamp
from headrace.action_provider.api.asked import number
from headrace.action_provider.api.bus_access import check_right
from headrace.action_provider.errors import InvalidRequest, NotFound
from headrace.action_provider.http import Call, Operation, Query, no_content, reply
from headrace.bus.errors import ScheduleInvalid
from headrace.bus.eventing.schedules.keeping import make_schedule, remove_schedule, set_paused
from headrace.bus.eventing.schedules.models import ScheduleProgress, ScheduleRecord
from headrace.bus.eventing.schedules.requests import record_of
from headrace.bus.eventing.schedules.ticks import written
from headrace.bus.eventing.schedules.timing import Timing, instant, zone
from headrace.schemas import Violation

T = TypeVar("T")

_DEFAULT = 10
_MOST = 1000


async def create(call: Call) -> Response:
    """Publish an event at given times. Everything is checked now: what is accepted ticks."""
    record = await _asked_for(call)
    await check_right(call.service, call.caller, record.bus, "publish", lasting=True)
    await make_schedule(call.service.connection, call.service.tables, record)
    return reply(await _checked(lambda: _described(record, ScheduleProgress())), 201)


async def list_schedules(call: Call) -> Response:
    """The caller's schedules, newest first."""
    tables = call.service.tables
    records = [r.value for r in await tables.schedules.list() if call.caller.is_(r.value.owner)]
    records.sort(key=lambda record: -record.created_at)
    progress = {record.key: record.value for record in await tables.schedule_progress.list()}
    return reply(
        {"schedules": [_described(each, progress.get(each.schedule_id.hex, ScheduleProgress())) for each in records]}
    )


async def get(call: Call) -> Response:
    """One of the caller's schedules, with its last tick and its next one."""
    record = await _own(call)
    return reply(_described(record, await _progress(call, record)))


async def change(call: Call) -> Response:
    """Let a schedule rest, or go on from now: ticks in between are none."""
    record = await _own(call)
    paused: bool = call.body["paused"]
    changed = await set_paused(call.service.tables, record.schedule_id, paused=paused, now_ms=_now_ms())
    return reply(_described(changed, await _progress(call, changed)))


async def preview(call: Call) -> Response:
    """The next ticks of one of the caller's schedules, also while it is paused."""
    record, count = await _own(call), number(call, "count", default=_DEFAULT, most=_MOST)
    return reply(await _checked(lambda: _ticks(record, count)))


async def preview_new(call: Call) -> Response:
    """The next ticks of what could be a schedule; nothing is stored."""
    count, record = number(call, "count", default=_DEFAULT, most=_MOST), await _asked_for(call)
    return reply(await _checked(lambda: _ticks(record, count)))


async def delete(call: Call) -> Response:
    """End a schedule. Events that it has published stay."""
    await remove_schedule(call.service.tables, (await _own(call)).schedule_id)
    return no_content()


async def _asked_for(call: Call) -> ScheduleRecord:
    body, owner = call.body, call.caller.principal
    return await _checked(lambda: record_of(body, schedule_id=uuid.uuid4(), owner=owner, now_ms=_now_ms()))


async def _checked(work: Callable[[], T]) -> T:
    """The result of work with times, beside the loop: a rare one may take a while to find."""
    try:
        return await asyncio.to_thread(work)
    except ScheduleInvalid as error:
        raise InvalidRequest(str(error), violations=(Violation(pointer=error.pointer, problem=str(error)),)) from error


async def _own(call: Call) -> ScheduleRecord:
    schedule_id = call.path_id("schedule_id")
    found = await call.service.tables.schedules.get(schedule_id.hex)
    if found is None or not call.caller.is_(found.value.owner):
        raise NotFound(f"there is no schedule {schedule_id} of yours")
    return found.value


async def _progress(call: Call, record: ScheduleRecord) -> ScheduleProgress:
    found = await call.service.tables.schedule_progress.get(record.schedule_id.hex)
    return ScheduleProgress() if found is None else found.value


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _ticks(record: ScheduleRecord, count: int) -> dict[str, Any]:
    timing, local = Timing.of(record), zone(record.timezone)
    ticks = itertools.islice(timing.ticks(_now_ms(), 1 << 62), count)
    return {
        "ticks": [
            {
                "scheduled": written(tick),
                "local": instant(tick).astimezone(local).isoformat(),
                "due": written(timing.due(tick)),
            }
            for tick in ticks
        ]
    }


def _described(record: ScheduleRecord, progress: ScheduleProgress) -> dict[str, Any]:
    once = record.cron is None and record.every_ms is None
    return {
        "schedule_id": record.schedule_id,
        "name": record.name,
        "owner": record.owner,
        "bus": record.bus,
        "cron": record.cron,
        "timezone": record.timezone,
        "every_s": None if record.every_ms is None else record.every_ms / 1000,
        "at": written(record.from_ms) if once else None,
        "start": None if once else written(record.from_ms),
        "end": _written(record.until_ms),
        "jitter_s": record.jitter_ms / 1000,
        "misfire": record.misfire,
        "grace_s": record.grace_ms / 1000,
        "most_missed": record.most_missed,
        "overlap": record.overlap,
        "most_queued": record.most_queued,
        "paused": record.paused,
        "event": record.event,
        "created_at": timestamp(record.created_at),
        "last_tick": _written(progress.fired_ms),
        "next_tick": None if record.paused else _next(record, progress),
        "missed": progress.missed,
        "skipped": progress.skipped,
        "last_skipped": _written(progress.last_skipped_ms),
        "replaced": progress.replaced,
        "queued": len(progress.queued),
        "running_tick": _running(progress),
    }


def _running(progress: ScheduleProgress) -> str | None:
    run = progress.run
    return None if run is None or (run.matched and not run.open) else written(run.tick_ms)


def _next(record: ScheduleRecord, progress: ScheduleProgress) -> str | None:
    try:
        return _written(Timing.of(record).next(max(record.after_ms, progress.last_ms)))
    except ScheduleInvalid:
        return None  # a zone that this machine does not know (any more)


def _written(tick_ms: int | None) -> str | None:
    return None if tick_ms is None else written(tick_ms)


_COUNT = Query(
    name="count",
    description=f"At most so many; {_DEFAULT} where it is not given.",
    schema={"type": "integer", "minimum": 1, "maximum": _MOST},
)

ROUTES = (
    Operation(
        method="POST",
        path="/api/v1/schedules",
        handler=create,
        summary="Publish an event at given times",
        request_schema="schedule-request",
        response_schema="schedule",
        status=201,
    ),
    Operation(
        method="GET",
        path="/api/v1/schedules",
        handler=list_schedules,
        summary="List your schedules",
        response_schema="schedule-list",
    ),
    Operation(
        method="POST",
        path="/api/v1/schedules/preview",
        handler=preview_new,
        summary="See when a schedule would tick, before it is made",
        request_schema="schedule-request",
        response_schema="schedule-preview",
        query=(_COUNT,),
    ),
    Operation(
        method="GET",
        path="/api/v1/schedules/{schedule_id}",
        handler=get,
        summary="Read a schedule of your own",
        response_schema="schedule",
    ),
    Operation(
        method="PATCH",
        path="/api/v1/schedules/{schedule_id}",
        handler=change,
        summary="Pause a schedule of your own, or let it go on",
        request_schema="schedule-change",
        response_schema="schedule",
    ),
    Operation(
        method="GET",
        path="/api/v1/schedules/{schedule_id}/preview",
        handler=preview,
        summary="See when a schedule of your own ticks next",
        response_schema="schedule-preview",
        query=(_COUNT,),
    ),
    Operation(
        method="DELETE",
        path="/api/v1/schedules/{schedule_id}",
        handler=delete,
        summary="End a schedule of your own",
        status=204,
    ),
)
