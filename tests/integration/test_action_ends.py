"""Ends that are shown at once and written a moment later: what becomes of them, whatever comes in between."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from service import RunningService

from headrace.bus.nats.connection import Connection
from headrace.bus.store.action_keys import new_action_id
from headrace.bus.store.actions import ActionRecord, Actions
from headrace.bus.store.records import Record

PROVIDER = "/actions/compute/v3"
ADA = "urn:headrace:user:ada"


def a_record(request_id: str) -> ActionRecord:
    return ActionRecord(
        action_id=f"tg_{new_action_id(PROVIDER, ADA, request_id)}",
        provider=PROVIDER,
        creator=ADA,
        request_id=request_id,
        request_digest="digest",
        started_at=time.time(),
    )


def ended(record: Record[ActionRecord], value: object) -> ActionRecord:
    return msgspec.structs.replace(
        record.value, status="SUCCEEDED", details={"result": [value]}, ended_at=record.value.started_at
    )


@contextlib.asynccontextmanager
async def writing(actions: Actions) -> AsyncIterator[None]:
    """Ends are written, as in a service, until the block is left as a service is stopped."""
    task = asyncio.create_task(actions.write_ends())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def begun(actions: Actions, request_id: str) -> Record[ActionRecord]:
    return (await actions.start(a_record(request_id))).record


def test_an_end_is_shown_at_once_everywhere_and_written_before_the_service_stops(service: RunningService) -> None:
    async def story(connection: Connection) -> None:
        actions, elsewhere = Actions(connection, together_s=60), Actions(connection)
        await actions.ensure()
        async with writing(actions):
            record = await begun(actions, "shown")
            end = ended(record, 1)
            shown = await actions.finish_soon(record, end)

            assert shown is not None
            assert shown.value == end
            for found in (
                await actions.by_id(end.action_id),
                await actions.by_key(record.key),
                await actions.of_request(PROVIDER, ADA, "shown"),
                (await actions.under([record.key]))[record.key],
                (await actions.start(a_record("shown"))).record,
            ):
                assert found is not None
                assert found.value == end
            first = await elsewhere.by_id(end.action_id)
            assert first is not None
            assert first.value.status == "ACTIVE", "it is not written yet"
        written = await elsewhere.by_id(end.action_id)
        assert written is not None
        assert written.value == end

    service.bus(story)


def test_many_ends_are_all_written_though_some_were_written_by_others(service: RunningService) -> None:
    async def story(connection: Connection) -> None:
        actions, elsewhere = Actions(connection), Actions(connection)
        await actions.ensure()
        records = await asyncio.gather(*(begun(actions, f"many {n}") for n in range(120)))
        async with writing(actions):
            for n, record in enumerate(records):
                await actions.finish_soon(record, ended(record, n))
                if n % 40 == 0:
                    # Another service was asked for the action, and computed the same.
                    await elsewhere.finish(record, ended(record, n))
        found = await elsewhere.under([record.key for record in records])
        assert [found[record.key].value for record in records] == [ended(record, n) for n, record in enumerate(records)]

    service.bus(story)


def test_one_end_that_cannot_be_written_keeps_no_other_from_being_written(service: RunningService) -> None:
    async def story(connection: Connection) -> None:
        actions, elsewhere = Actions(connection), Actions(connection)
        await actions.ensure()
        records = await asyncio.gather(*(begun(actions, f"one of them {n}") for n in range(20)))
        async with writing(actions):
            for n, record in enumerate(records):
                await actions.finish_soon(record, ended(record, n if n else "\ud800"))
        found = await elsewhere.under([record.key for record in records])
        assert [found[record.key].value.final for record in records] == [False] + [True] * 19

    service.bus(story)


@pytest.mark.parametrize("wait", [False, True], ids=["before it is written", "while or after it is written"])
def test_what_is_released_is_gone_and_does_not_come_back(service: RunningService, wait: bool) -> None:
    async def story(connection: Connection) -> None:
        actions, elsewhere = Actions(connection, together_s=0 if wait else 60), Actions(connection)
        await actions.ensure()
        async with writing(actions):
            record = await begun(actions, f"released {wait}")
            heard = asyncio.Event()
            await connection.subscribe(f"changed.actions.{record.key}", lambda _: heard.set())
            await connection.flush()
            shown = await actions.finish_soon(record, ended(record, 1))
            assert shown is not None
            later = await begun(actions, f"later {wait}")
            if wait:
                await asyncio.wait_for(heard.wait(), 10)
                shown = await actions.by_id(shown.value.action_id)
                assert shown is not None

            await actions.release(shown)
            await actions.finish_soon(later, ended(later, 2))

            assert await actions.by_id(record.value.action_id) is None
        # The one that came after it is written, and so would this one be.
        found = await elsewhere.by_id(later.value.action_id)
        assert found is not None
        assert found.value.final
        assert await elsewhere.by_id(record.value.action_id) is None
        again = await actions.start(a_record(f"released {wait}"))
        assert again.created, "the same request starts a new action"

    service.bus(story)


def test_an_end_that_somebody_else_has_written_stays(service: RunningService) -> None:
    async def story(connection: Connection) -> None:
        actions, elsewhere = Actions(connection, together_s=60), Actions(connection)
        await actions.ensure()
        async with writing(actions):
            record = await begun(actions, "decided")
            shown = await actions.finish_soon(record, ended(record, 1))
            assert shown is not None
            await elsewhere.finish(record, ended(record, "by somebody else"))

            found = await actions.by_id(record.value.action_id)
            assert found is not None
            assert found.value.details == {"result": ["by somebody else"]}
            await actions.release(shown)
            assert await actions.by_id(record.value.action_id) is None

    service.bus(story)


def test_without_anybody_who_writes_an_end_is_written_before_it_is_shown(service: RunningService) -> None:
    async def story(connection: Connection) -> None:
        actions, elsewhere = Actions(connection), Actions(connection)
        await actions.ensure()
        record = await begun(actions, "at once")
        await actions.finish_soon(record, ended(record, 1))

        found = await elsewhere.by_id(record.value.action_id)
        assert found is not None
        assert found.value.final

    service.bus(story)


def test_an_end_waits_until_the_bus_is_back(service: RunningService) -> None:
    async def story(connection: Connection) -> None:
        actions = Actions(connection)
        await actions.ensure()
        async with writing(actions):
            record = await begun(actions, "outage")
            heard = asyncio.Event()
            await connection.subscribe(f"changed.actions.{record.key}", lambda _: heard.set())
            await connection.flush()
            await actions.finish_soon(record, ended(record, 1))
            service.nats.kill()
            await service.nats.wait()
            await service.nats.start()
            await asyncio.wait_for(heard.wait(), 30)

    service.bus(story, within_s=60)
