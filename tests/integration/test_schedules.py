"""Schedules with a real bus and service: ticks are events, one each, whoever is there to publish them."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import uuid
from uuid import UUID

import pytest
from schedule_desk import BEGIN, opened
from service import RunningService
from waiting import eventually

from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.schedules.keeping import remove_schedule, set_paused
from headrace.bus.eventing.schedules.ticks import tick_event
from headrace.bus.eventing.schedules.timing import Timing, milliseconds
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.names import event_subject
from headrace.bus.nats.connection import Connection
from headrace.bus.store.tables import Tables
from headrace.sdk import Client, NotFound, RequestRefused

pytestmark = pytest.mark.anyio


async def test_two_timers_publish_each_tick_once_and_one_goes_on_alone(service: RunningService) -> None:
    keys = ServiceKeys.load(service.keys_dir)
    async with opened(service) as desk, Connection([service.nats.url], keys.core, name="other") as other:
        record = await desk.schedule(jitter_s=5)
        first, _ = desk.start(), desk.start(other)
        for minute in (1, 2, 3):
            await desk.clock.advance(66)
            assert await desk.settled(record, minute) == list(range(1, minute + 1))
        await desk.kill(first)
        await desk.clock.advance(60)
        assert await desk.settled(record, 4) == [1, 2, 3, 4]
        assert len({event.id for event in await desk.events()}) == 4


async def test_a_timer_that_died_before_it_recorded_a_tick_leaves_it_to_be_found(service: RunningService) -> None:
    async with opened(service) as desk:
        record = await desk.schedule(misfire="all")
        # Stored without the id by which the server would know it again: for that it may be too long ago.
        stored = tick_event(record, Timing.of(record), BEGIN + 60_000)
        await desk.connection.store(event_subject("default", stored.type), stored.encode())
        await desk.clock.advance(600)
        desk.start()
        assert await desk.settled(record, 10) == list(range(1, 11))


@pytest.mark.parametrize(("policy", "expected"), [("skip", [9, 10]), ("once", [8, 9, 10])])
async def test_after_an_outage_the_schedule_says_what_is_made_up_for(
    service: RunningService, policy: str, expected: list[int]
) -> None:
    async with opened(service) as desk:
        record = await desk.schedule(misfire=policy, grace_s=90)
        await desk.clock.advance(600)
        desk.start()
        assert await desk.settled(record, 10) == expected
        progress = await desk.tables.schedule_progress.need(record.schedule_id.hex)
        assert progress.value.missed == 10 - len(expected)


async def test_what_would_come_during_a_pause_never_comes(service: RunningService) -> None:
    async with opened(service) as desk:
        record = await desk.schedule(misfire="all")
        desk.start()
        await desk.clock.advance(60)
        await desk.settled(record, 1)
        await set_paused(desk.tables, record.schedule_id, paused=True, now_ms=desk.clock.now_ms())
        await desk.clock.advance(300)
        await set_paused(desk.tables, record.schedule_id, paused=False, now_ms=desk.clock.now_ms())
        await desk.clock.advance(60)
        assert await desk.settled(record, 7) == [1, 7]


async def test_a_schedule_that_is_removed_ticks_no_more_and_leaves_nothing(service: RunningService) -> None:
    async with opened(service) as desk:
        gone, other = await desk.schedule(), await desk.schedule(every_s=30, event={"type": "org.example.other"})
        desk.start()
        await desk.clock.advance(60)
        await desk.settled(gone, 1)
        await remove_schedule(desk.tables, gone.schedule_id)
        await desk.clock.advance(120)
        await desk.settled(other, 3)
        assert await desk.minutes() == [1]
        assert await desk.tables.schedule_progress.get(gone.schedule_id.hex) is None


def test_each_tick_is_one_event_with_two_replicas_of_which_one_is_killed(
    service: RunningService, client: Client
) -> None:
    # Takes five ticks of a second, the shortest interval: two processes have only the machine's clock in common.
    kind = f"org.example.{uuid.uuid4().hex}"

    def scheduled() -> list[str]:
        async def read(connection: Connection) -> list[str]:
            query = {"seq": 1, "next_by_subj": event_subject("default", kind), "batch": 100}
            messages, _ = await connection.read_many("EVENTS", query)
            return [str(CloudEvent.of_stored(m.data).attributes["scheduledtime"]) for m in messages]

        found: list[str] = service.bus(read)
        return found

    command = [sys.executable, "-m", "headrace.cli.main", "dispatch", "--home", str(service.home)]
    with subprocess.Popen(
        [*command, "--nats-url", service.nats.url], stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        try:
            assert process.stderr is not None
            assert any("The timer publishes ticks" in line for line in process.stderr)
            made = client.create_schedule({"every_s": 1, "event": {"type": kind}})
            eventually(lambda: len(scheduled()) >= 2, 10)
            process.send_signal(signal.SIGKILL)
            eventually(lambda: len(scheduled()) >= 5, 10)
        finally:
            process.kill()
    client.delete_schedule(made["schedule_id"])
    times = [milliseconds(datetime.datetime.fromisoformat(each)) for each in scheduled()]
    assert times == [times[0] + 1000 * n for n in range(len(times))]


def test_a_schedule_is_made_looked_at_paused_and_deleted_by_its_owner_alone(
    service: RunningService, client: Client
) -> None:
    made = client.create_schedule({"cron": "30 6 * * 1-5", "timezone": "Europe/Berlin", "name": "mornings"})
    assert client.get_schedule(made["schedule_id"]) == made
    assert [each["name"] for each in client.list_schedules()] == ["mornings"]
    assert [each["local"][11:16] for each in client.preview_schedule(made["schedule_id"], 3)] == ["06:30"] * 3
    assert client.pause_schedule(made["schedule_id"])["next_tick"] is None
    assert client.resume_schedule(made["schedule_id"])["next_tick"] == made["next_tick"]
    with Client(service.url, service.add_user("eve")) as eve:
        assert eve.list_schedules() == []
        for forbidden in (eve.get_schedule, eve.preview_schedule, eve.pause_schedule, eve.delete_schedule):
            with pytest.raises(NotFound):
                forbidden(made["schedule_id"])
    client.delete_schedule(made["schedule_id"])
    assert client.list_schedules() == []


def test_a_preview_needs_no_schedule_and_what_is_wrong_names_its_place(client: Client) -> None:
    assert len(client.preview_schedule({"every_s": 60}, 3)) == 3
    with pytest.raises(RequestRefused, match="minute '61'"):
        client.preview_schedule({"cron": "61 * * * *"})
    with pytest.raises(RequestRefused, match="overlap"):
        client.create_schedule({"every_s": 60, "overlap": "forbid"})


def test_the_schedules_of_a_user_go_with_the_user(service: RunningService, client: Client) -> None:
    with Client(service.url, service.add_user("grace")) as grace:
        made = grace.create_schedule({"every_s": 3600})
    client.delete_user("grace")

    async def left(connection: Connection) -> bool:
        return await Tables.on(connection).schedules.get(UUID(made["schedule_id"]).hex) is not None

    assert not service.bus(left)
