"""Leases: one holder at a time, whoever dies."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from service import RunningService
from waiting import eventually_async

from headrace.bus.eventing.leases import Lease, LeaseRecord, Leases, holder_of
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.nats.connection import Connection
from headrace.bus.store.records import Records
from headrace.bus.store.tables import Tables

HOLDER = """
import asyncio, sys
from pathlib import Path
from headrace.bus.eventing.leases import Leases
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.nats.connection import Connection
from headrace.bus.store.tables import Tables

async def work(lease):
    print(lease.token, flush=True)
    await asyncio.Event().wait()

async def main(url, keys):
    async with Connection([url], ServiceKeys.load(Path(keys)).core, name="holder") as connection:
        leases = Leases(Tables.on(connection).leases, session_s=2, holder="killed")
        await asyncio.gather(leases.run(), leases.keep("it", work))

asyncio.run(main(*sys.argv[1:]))
"""


class Watched:
    """Work that says when it began and was stopped."""

    def __init__(self) -> None:
        self.begun: list[Lease] = []
        self.stopped = 0
        self.enough = asyncio.Event()

    @property
    def at_work(self) -> bool:
        return len(self.begun) > self.stopped

    async def __call__(self, lease: Lease) -> None:
        self.begun.append(lease)
        try:
            await self.enough.wait()
        finally:
            self.stopped += 1


@contextlib.asynccontextmanager
async def at_work(records: Records[LeaseRecord], work: Watched, name: str) -> AsyncIterator[Leases]:
    """A process of its own, as far as leases go, that keeps `it`."""
    leases = Leases(records, session_s=2, holder=name)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(leases.run()), group.create_task(leases.keep("it", work))]
        try:
            yield leases
        finally:
            for task in tasks:
                task.cancel()


async def with_tables(service: RunningService, work: Callable[[Records[LeaseRecord]], Awaitable[None]]) -> None:
    async with Connection([service.nats.url], ServiceKeys.load(service.keys_dir).core, name="leases") as connection:
        await work(Tables.on(connection).leases)


def test_a_lease_has_one_holder_and_the_next_one_when_it_is_given_back(service: RunningService) -> None:
    async def story(records: Records[LeaseRecord]) -> None:
        first, second = Watched(), Watched()
        async with at_work(records, second, "second"):
            await eventually_async(lambda: second.at_work, 10)
            async with at_work(records, first, "first"):
                found = await holder_of(records, "it")
                assert found is not None
                assert found.holder == "second"
                assert not first.begun
                second.enough.set()
                await eventually_async(lambda: first.at_work, 10)
                assert second.stopped == 1
                assert first.begun[0].token > second.begun[0].token
                assert first.begun[0].held
            assert not first.at_work
        assert await holder_of(records, "it") is None

    asyncio.run(with_tables(service, story))


def test_whoever_is_killed_loses_its_lease_within_seconds(service: RunningService) -> None:
    async def story(records: Records[LeaseRecord]) -> None:
        killed = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLDER, service.nats.url, str(service.keys_dir), stdout=subprocess.PIPE
        )
        assert killed.stdout is not None
        token = int(await killed.stdout.readline())
        work = Watched()
        async with at_work(records, work, "next"):
            found = await holder_of(records, "it")
            assert found is not None
            assert found.holder == "killed"
            killed.kill()
            await killed.communicate()
            await eventually_async(lambda: work.at_work, 10)
            assert work.begun[0].token > token

    asyncio.run(with_tables(service, story))


def test_a_lost_session_stops_the_work_which_begins_anew_with_another(service: RunningService) -> None:
    async def story(records: Records[LeaseRecord]) -> None:
        work = Watched()
        async with at_work(records, work, "it loses"):
            await eventually_async(lambda: work.at_work, 10)
            lease = work.begun[0]
            for record in await records.list("session."):
                await records.delete(record.key)
            await eventually_async(lambda: len(work.begun) == 2, 10)
            assert work.stopped == 1
            assert not lease.held
            assert work.begun[1].token > lease.token

    asyncio.run(with_tables(service, story))


def test_what_fails_under_a_lease_is_told_and_the_lease_is_free(service: RunningService) -> None:
    async def fail(_lease: Lease) -> None:
        raise ValueError("no")

    async def story(records: Records[LeaseRecord]) -> None:
        leases = Leases(records, session_s=2)
        running = asyncio.create_task(leases.run())
        with pytest.raises(ValueError, match="no"):
            await leases.keep("fails", fail)
        assert await holder_of(records, "fails") is None
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(with_tables(service, story))
