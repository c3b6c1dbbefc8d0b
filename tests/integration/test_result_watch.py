"""Following the results of a bundle of one task, whose next part alone is listened for, with a real bus."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from service import RunningService

from headrace.bus.names import Address
from headrace.bus.nats.connection import Connection
from headrace.bus.tasks.bundles import ResultPart, Runtime, TaskResult, encode_part
from headrace.bus.tasks.results import ResultCollector, ResultWatch

KEY = b"k" * 32
ADA = "urn:headrace:user:ada"
RUNTIME = Runtime(python="3.11", headrace="1")


def an_address() -> Address:
    return Address(endpoint=uuid.uuid4(), pool="default", principal=ADA, group=uuid.uuid4(), bundle=uuid.uuid4())


async def store(connection: Connection, address: Address, number: int, *results: TaskResult) -> None:
    subject = address.result_subject(number)
    part = ResultPart(results=list(results), total=1, runtime=RUNTIME)
    await connection.store(subject, encode_part(part, subject=subject, key=KEY))


def done() -> TaskResult:
    return TaskResult(0, "succeeded", 1, b"1")


@pytest.mark.parametrize("before", [0, 1, 2], ids="{} parts without a result are there already".format)
@pytest.mark.parametrize("after", [0, 1, 3], ids="{} more come before the result".format)
def test_the_result_is_heard_of_though_other_parts_come_before_it(
    service: RunningService, before: int, after: int
) -> None:
    async def story(connection: Connection) -> None:
        address = an_address()
        for number in range(before):
            await store(connection, address, number)
        collector = ResultCollector(address, KEY, total=1)
        async with ResultWatch(connection, [collector]) as watch:
            await watch.catch_up()
            assert not watch.complete
            waiting = asyncio.create_task(watch.until_complete(60))
            for number in range(before, before + after):
                await store(connection, address, number)
            await store(connection, address, before + after, done())

            assert await asyncio.wait_for(waiting, 10), "long before the 60 s are over, after which the store is read"
        assert list(collector.results) == [0]

    service.bus(story)
