"""Overlap policies with a real bus, dispatcher and pool: one tick's run at a time, whoever decides, whoever dies."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from events_desk import NOTES, EventsDesk
from running_pool import RunningPool
from schedule_desk import BEGIN, Desk, opened
from service import RunningService
from waiting import eventually, eventually_answered, eventually_async

from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.schedules.models import ScheduleProgress, ScheduleRecord, TickRun
from headrace.bus.eventing.schedules.ticks import tick_event
from headrace.bus.eventing.schedules.timing import Timing
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.nats.connection import Connection
from headrace.sdk import Client, NotFound

pytestmark = pytest.mark.anyio

NEVER_ENDS = """
import time
def f(path, minute):
    with open(path, "a") as file:
        file.write(minute + "\\n")
    while True:
        time.sleep(0.01)  # until it is replaced or cancelled
"""


class Overlapping:
    """A schedule whose ticks reach one subscription, and two timers."""

    def __init__(self, desk: Desk, client: Client, record: ScheduleRecord, subscription: dict[str, Any]) -> None:
        self.desk, self.client, self.record, self.subscription = desk, client, record, subscription

    async def progress(self) -> ScheduleProgress:
        return (await self.desk.tables.schedule_progress.need(self.record.schedule_id.hex)).value

    async def until(self, fits: Any) -> ScheduleProgress:
        async def looked_at() -> ScheduleProgress | None:
            progress = await self.progress()
            return progress if fits(progress) else None

        found = await eventually_answered(looked_at, message="the schedule's progress is as it should be")
        assert found is not None
        return found

    async def to_minute(self, minute: float) -> list[float]:
        """Let time pass; which ticks were published by then."""
        await self.desk.clock.advance(minute * 60 - (self.desk.clock.now_ms() - BEGIN) / 1000)
        return await self.desk.settled(self.record, minute)

    async def started(self, minute: int) -> TickRun:
        """The run of a tick, once its event was matched."""
        found = await self.until(lambda p: p.run and p.run.tick_ms == BEGIN + minute * 60_000 and p.run.matched)
        assert found.run is not None
        return found.run

    def task_id(self, minute: int, attempt: int = 1) -> UUID:
        event = tick_event(self.record, Timing.of(self.record), BEGIN + minute * 60_000)
        delivery = Delivery(UUID(self.subscription["subscription_id"]), "default", 0, event.source, event.id, attempt)
        return delivery.task_id(UUID(self.subscription["endpoint_id"]))

    async def end(self, minute: int) -> None:
        """End the run of a tick: its task is cancelled, which makes a dead letter."""
        await self.started(minute)
        # It is noted who gets an event before the task is stored.
        await asyncio.to_thread(eventually, functools.partial(self._cancelled, self.task_id(minute)), 20)

    def _cancelled(self, task_id: UUID) -> bool:
        with contextlib.suppress(NotFound):
            self.client.cancel(task_id)
            return True
        return False


@contextlib.asynccontextmanager
async def overlapping(
    service: RunningService, client: Client, body: dict[str, Any], **schedule: Any
) -> AsyncIterator[Overlapping]:
    keys = ServiceKeys.load(service.keys_dir)
    async with opened(service) as desk, Connection([service.nats.url], keys.core, name="other") as other:
        made = await asyncio.to_thread(client.create_subscription, {"filter": {"exact": {"type": desk.kind}}, **body})
        record = await desk.schedule(owner=made["owner"], misfire="all", **schedule)
        desk.start(), desk.start(other)
        yield Overlapping(desk, client, record, made)
        with contextlib.suppress(NotFound):
            await asyncio.to_thread(client.delete_subscription, made["subscription_id"])


@pytest.fixture
def to_nowhere(service: RunningService, away: str) -> dict[str, Any]:
    """What waits in the queue of an endpoint that is away has not ended."""
    return {"function_id": service.add_function("def f(event):\n    pass\n"), "endpoint_id": away}


async def test_skip_leaves_out_the_ticks_that_come_while_a_run_goes_on_and_says_so(
    service: RunningService, client: Client, to_nowhere: dict[str, Any]
) -> None:
    async with overlapping(service, client, to_nowhere, overlap="skip") as it:
        assert await it.to_minute(1) == [1]
        assert len((await it.started(1)).open) == 1
        assert await it.to_minute(2) == [1]
        assert await it.to_minute(3) == [1]
        shown = await asyncio.to_thread(client.get_schedule, it.record.schedule_id)
        assert (shown["skipped"], shown["last_skipped"]) == (2, "2100-01-01T00:03:00Z")
        assert (shown["running_tick"], shown["last_tick"]) == ("2100-01-01T00:01:00Z", "2100-01-01T00:01:00Z")
        await it.end(1)
        await it.until(lambda p: not p.run.open)
        assert await it.to_minute(4) == [1, 4]
        # What a deleted subscription has started is nothing to wait for.
        await it.started(4)
        await asyncio.to_thread(client.delete_subscription, it.subscription["subscription_id"])
        assert await it.to_minute(5) == [1, 4, 5]


async def test_queue_publishes_one_tick_after_the_other_and_skips_what_has_no_room(
    service: RunningService, client: Client, to_nowhere: dict[str, Any]
) -> None:
    async with overlapping(service, client, to_nowhere, overlap="queue", most_queued=2) as it:
        assert await it.to_minute(4) == [1]
        progress = await it.progress()
        assert (len(progress.queued), progress.skipped) == (2, 1)
        for minute in (1, 2, 3):
            await it.end(minute)
        await it.until(lambda p: not p.run.open and not p.queued)
        assert await it.desk.minutes() == [1, 2, 3]
        assert await it.to_minute(5) == [1, 2, 3, 5]


async def test_a_run_goes_on_while_a_delivery_waits_for_its_next_attempt(
    service: RunningService, client: Client, pool: RunningPool, tmp_path: Path
) -> None:
    desk = EventsDesk(service.http(), tmp_path, service.add_function(NOTES, "note"), pool.endpoint_id)
    notes = desk.notes()
    body = {
        "function_id": desk.function,
        "endpoint_id": desk.endpoint,
        "input": {"args": [str(notes.path), "{{ event.scheduledtime }}"], "kwargs": {"fail": 1}},
        "retry": {"max_attempts": 2, "first_delay_s": 0.5},
    }
    async with overlapping(service, client, body, overlap="queue") as it:
        assert await it.to_minute(2) == [1]
        await it.until(lambda p: not p.queued and p.run.matched and not p.run.open)
        assert [args[0][14:16] for args in notes.args] == ["01", "01", "02"]


@pytest.mark.parametrize("flow", [None, {"concurrency": 1}], ids=["at once", "one at a time"])
async def test_replace_cancels_what_runs_and_leaves_no_dead_letter(
    service: RunningService, client: Client, pool: RunningPool, tmp_path: Path, flow: dict[str, Any] | None
) -> None:
    notes = tmp_path / "notes"
    body = {
        "function_id": service.add_function(NEVER_ENDS, "f"),
        "endpoint_id": pool.endpoint_id,
        "input": {"args": [str(notes), "{{ event.scheduledtime[14:16] }}"]},
        **({} if flow is None else {"flow": flow}),
    }

    async def runs(*expected: str) -> None:
        await eventually_async(lambda: notes.exists() and notes.read_text().split() == list(expected), 20)

    async with overlapping(service, client, body, overlap="replace") as it:
        await it.to_minute(1)
        await runs("01")
        assert await it.to_minute(2) == [1, 2]
        await runs("01", "02")
        # Two that are due together: the later one.
        assert await it.to_minute(4) == [1, 2, 4]
        await runs("01", "02", "04")
        progress = await it.progress()
        assert (progress.replaced, progress.skipped) == (2, 1)
        for minute in (1, 2):
            task = await asyncio.to_thread(client.get_task, it.task_id(minute), wait_s=20)
            assert task["state"] == "cancelled"
        assert client.list_dead_letters(it.subscription["subscription_id"]) == []
        await asyncio.to_thread(client.cancel, it.task_id(4), force=True)


async def test_a_timer_that_died_after_its_decision_leaves_it_to_the_next_one(
    service: RunningService, client: Client
) -> None:
    async with opened(service) as desk:
        record = await desk.schedule(overlap="skip", misfire="skip", grace_s=1)
        found = await desk.tables.schedule_progress.need(record.schedule_id.hex)
        claimed = TickRun(tick_ms=BEGIN + 60_000, source=str(record.event["source"]))
        value = msgspec.structs.replace(found.value, run=claimed, last_ms=claimed.tick_ms)
        await desk.tables.schedule_progress.update(found, value)
        await desk.clock.advance(100)
        desk.start()
        it = Overlapping(desk, client, record, {})
        await it.until(lambda p: p.run.sequence)
        assert await desk.minutes() == [1]


async def test_a_pause_forgets_the_run_and_what_is_queued(
    service: RunningService, client: Client, to_nowhere: dict[str, Any]
) -> None:
    async with overlapping(service, client, to_nowhere, overlap="queue") as it:
        assert await it.to_minute(3) == [1]
        name = it.record.schedule_id
        assert (await asyncio.to_thread(client.pause_schedule, name))["queued"] == 2
        resumed = await asyncio.to_thread(client.resume_schedule, name)
        assert (resumed["queued"], resumed["running_tick"]) == (0, None)
        assert await it.to_minute(4) == [1, 4]
        await it.end(4)
        await it.until(lambda p: not p.run.open)
