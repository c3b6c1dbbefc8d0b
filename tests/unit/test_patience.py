"""Waiting times are measured by the server's clock, of which only lower bounds are known."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from waiting import eventually_async

from headrace.bus.names import Address
from headrace.bus.tasks.bundles import Bundle, Runtime, Task, TaskOptions, TaskResult
from headrace.endpoint.agent.held import Held
from headrace.endpoint.agent.patience import Patience, ServerClock

ADDRESS = Address(
    endpoint=UUID(int=1), pool="default", principal="urn:headrace:user:ada", group=UUID(int=2), bundle=UUID(int=3 << 16)
)


def held(*options: TaskOptions) -> Held:
    tasks = [Task(index, 0, index, 0, b"") for index in range(len(options))]
    return Held(
        address=ADDRESS,
        ack_subject="",
        bundle=Bundle(b"", [], list(options), tasks, Runtime("3.11", "0.1.0")),
        sequence=1,
        stored_ns=1_000_000_000_000,
        taken_at=0.0,
        open=set(range(len(options))),
        size=0,
    )


def test_the_server_s_clock_is_what_it_last_said_at_the_latest() -> None:
    clock = ServerClock()
    assert clock.now() == float("-inf")

    clock.learn(5_000.0)
    clock.learn(1_000.0)

    assert 5_000.0 <= clock.now() < 5_010.0


def test_tasks_are_late_by_their_own_limits_and_only_while_they_have_no_result() -> None:
    bundle = held(TaskOptions(), TaskOptions(queue_timeout_s=1), TaskOptions(queue_timeout_s=2.5))

    assert bundle.ends() == {1001.0, 1002.5}
    assert bundle.late(1000.9) == {}
    assert bundle.late(1001.0) == {1: 1}
    assert bundle.late(1002.5) == {1: 1, 2: 2.5}
    bundle.add(TaskResult(1, "succeeded", 0, b""))
    assert bundle.late(2000.0) == {2: 2.5}


@pytest.mark.anyio
async def test_bundles_are_named_in_the_order_of_their_ends() -> None:
    clock, named = ServerClock(), list[int]()
    clock.learn(100.0)
    patience = Patience(clock)
    task = asyncio.create_task(patience.run(lambda bundle: named.append(bundle.int)))
    for end, bundle in ((100.2, 2), (100.1, 1), (9_999.0, 3), (0.0, 0)):
        patience.add(end, UUID(int=bundle), ())

    await eventually_async(lambda: len(named) == 3)

    assert named == [0, 1, 2]
    clock.learn(10_000.0)
    patience.add(100.0, UUID(int=4), ())
    await eventually_async(lambda: named[3:] == [4, 3])
    task.cancel()


@pytest.mark.timeout(60)  # each costs the same, however many there were
def test_bundles_that_are_done_are_forgotten_in_time() -> None:
    patience = Patience(ServerClock())
    alive = {UUID(int=5)}

    for number in range(50_000):
        patience.add(float(number), UUID(int=number), alive)

    assert len(patience) < 20_000
