"""The agent when something goes wrong that nobody has thought of: no bundle stays in its hands for ever."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from gates import WAIT_FOR
from service import RunningService
from waiting import eventually, eventually_async

from headrace.bus.data.encodings import JSON
from headrace.bus.data.failures import decode_failure
from headrace.bus.errors import AlreadyStored
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.keys import bundle_key
from headrace.bus.names import Address
from headrace.bus.nats.connection import MESSAGE_ID_HEADER, Connection
from headrace.bus.queues.lanes import Lanes
from headrace.bus.store.streams import delete_consumer
from headrace.bus.store.tables import Tables
from headrace.bus.tasks.bundles import Bundle, FunctionUse, Runtime, Task, TaskOptions, TaskResult, encode_bundle
from headrace.bus.tasks.results import read_parts
from headrace.endpoint.agent import in_hand
from headrace.endpoint.agent.held import Held
from headrace.endpoint.agent.loop import Agent
from headrace.endpoint.agent.result_log import ResultLog
from headrace.endpoint.agent.suspects import MOST_LOSSES, TRUSTED_DELIVERIES
from headrace.endpoint.engines.processes.engine import ProcessEngine
from headrace.endpoint.grant import PoolGrant
from headrace.endpoint.pool_service import HttpPoolService

pytestmark = pytest.mark.anyio

TRACE = """
def trace(path, seconds=0):
    import time
    with open(path, "a") as file:
        file.write("ran\\n")
    time.sleep(seconds)  # a task that takes its time
    return 1
"""


class Pool:
    """An endpoint whose pool's agent runs in this process."""

    def __init__(self, service: RunningService, directory: Path, name: str) -> None:
        self.service = service
        self.endpoint_id, token = service.add_endpoint(name)
        self.token_path = directory / "endpoint.token"
        self.token_path.write_text(token)

    @contextlib.asynccontextmanager
    async def agent(
        self,
        *,
        grace_s: float = 0.5,
        kind: type[HttpPoolService] = HttpPoolService,
        granted: Callable[[], object] = lambda: None,
    ) -> AsyncIterator[Agent]:
        """One agent of it, with one worker; at the end it drains, as its pool would let it. `granted` is called in a
        thread before it is connected."""
        asked = kind(self.service.url, endpoint=UUID(self.endpoint_id), pool="default", token_path=self.token_path)
        with contextlib.closing(asked):
            grant = await asyncio.to_thread(asked.grant_pool)
            await asyncio.to_thread(granted)
            async with Connection(grant.urls, grant.credentials, name="test pool") as connection:
                agent = Agent(
                    asked,
                    connection,
                    grant,
                    lambda source, on_outcomes: ProcessEngine(source, on_outcomes, workers=1),
                    runtime=Runtime(python="3.11.0", headrace="0"),
                )
                running = asyncio.create_task(agent.run(), name="agent")
                try:
                    await eventually_async(lambda: agent.status["workers"] == 1, 10)
                    yield agent
                finally:
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
                    await agent.drain(grace_s)

    def submit(self, function_id: str, *calls: list[Any], **options: Any) -> list[str]:
        """The ids of tasks, each in a bundle of its own."""
        http, url = self.service.http(), f"/api/v1/endpoints/{self.endpoint_id}/tasks"
        body = {"function_id": function_id, "options": options}
        answers = [http.post(url, json={**body, "args": args}) for args in calls]
        return [answer.json()["tasks"][0]["task_id"] for answer in answers]

    async def store(self, bundle: Bundle, secret: bytes, *, expires: int) -> Address:
        """Store a bundle of the administrator's that no client would make, under a key that is good until `expires`."""
        address = Address(
            endpoint=UUID(self.endpoint_id),
            pool="default",
            principal="urn:headrace:user:admin",
            group=uuid4(),
            bundle=uuid4(),
        )
        key = bundle_key(secret, address.principal, expires)
        message = encode_bundle(bundle, subject=address.task_subject, key=key, key_expires=expires)

        async def stored(connection: Connection) -> None:
            await connection.store(address.task_subject, message)

        await asyncio.to_thread(self.service.bus, stored)
        return address

    async def ended(self, task_id: str, within_s: float = 15.0) -> dict[str, Any]:
        """The task once it has its result."""
        answer = await asyncio.to_thread(
            self.service.http().get, f"/api/v1/tasks/{task_id}", params={"wait": f"{within_s}s"}
        )
        document: dict[str, Any] = answer.json()
        assert document["state"] != "pending", document
        return document


@pytest.fixture
def pool(service: RunningService, tmp_path: Path, request: pytest.FixtureRequest) -> Pool:
    return Pool(service, tmp_path, request.node.name[:60])


async def test_a_bundle_whose_side_task_died_comes_again(
    pool: Pool, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    function_id = service.add_function()
    store_part, failures = ResultLog._store_part, iter([RuntimeError("nobody has thought of this")])

    async def store_part_later(self: ResultLog, held: Held, results: list[TaskResult]) -> None:
        for failure in failures:
            raise failure
        await store_part(self, held, results)

    monkeypatch.setattr(ResultLog, "_store_part", store_part_later)
    async with pool.agent() as agent:
        (task_id,) = pool.submit(function_id, [7])

        assert (await pool.ended(task_id))["result"] == 7
        await eventually_async(lambda: agent.status["bundles"] == 0)


async def test_a_pool_whose_lanes_were_made_again_before_it_listened_asks_who_holds_a_bundle(
    pool: Pool, service: RunningService, tmp_path: Path
) -> None:
    learned = threading.Event()

    class SlowLater(HttpPoolService):
        asked = False

        def grant_pool(self) -> PoolGrant:
            if self.asked:
                learned.wait(30)
            self.asked = True
            return super().grant_pool()

    async def make_again(connection: Connection) -> None:
        lanes = Lanes(connection, ServiceKeys.load(service.keys_dir).key_ring(), Tables.on(connection).lanes)
        for lane in await lanes.of(UUID(pool.endpoint_id)):
            await delete_consumer(connection, "TASKS", lane.consumer)
        await lanes.sweep()

    function_id, gate, note = service.add_function(WAIT_FOR, "wait_for"), tmp_path / "gate", tmp_path / "note"
    async with pool.agent() as first:
        (task_id,) = pool.submit(function_id, [str(gate), str(note)])
        await eventually_async(note.exists, 10)
        first._draining = True  # it asks for nothing more, so that the other one is given what it holds
        try:
            async with pool.agent(kind=SlowLater, granted=lambda: service.bus(make_again)) as second:
                await eventually_async(lambda: second.status["taken"], 10)
                await eventually_async(lambda: not second.status["bundles"], 10)
                gate.touch()
                assert (await pool.ended(task_id))["state"] == "succeeded"
                learned.set()
        finally:
            learned.set()


async def test_a_mark_that_cannot_be_stored_now_is_stored_later(pool: Pool, service: RunningService) -> None:
    function_id = service.add_function()
    async with pool.agent():
        set_room_for_marks(service, 1)
        try:
            (task_id,) = pool.submit(function_id, [7], rerun_on_loss=False)
            # It is refused for as long as there is no room.
            document = await asyncio.to_thread(service.http().get, f"/api/v1/tasks/{task_id}", params={"wait": "0.5s"})
            assert document.json()["state"] == "pending"
        finally:
            set_room_for_marks(service, 1 << 30)

        assert (await pool.ended(task_id))["result"] == 7


async def test_a_mark_whose_answer_was_lost_is_known_again_also_after_a_crash_of_the_store(
    service: RunningService,
) -> None:
    subject, mine, theirs = "progress.e.p.g.b.0", {MESSAGE_ID_HEADER: "mine"}, {MESSAGE_ID_HEADER: "theirs"}

    def store(headers: dict[str, str]) -> Any:
        async def work(connection: Connection) -> Any:
            return await connection.store(subject, b"", headers=headers)

        return service.bus(work)

    async def crash() -> None:
        service.nats.kill()
        await service.nats.wait()
        await service.nats.start()

    assert not store(mine).duplicate
    assert store(mine).duplicate
    service.loop.run(crash())

    assert store(mine).duplicate
    with pytest.raises(AlreadyStored):
        store(theirs)


async def test_a_pool_that_held_too_many_bytes_asks_for_more_when_it_has_let_go_of_them(
    pool: Pool, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_hand, "_MOST_BYTES", 1)
    function_id = service.add_function()
    # More than a pool that knows nothing yet asks for at once.
    task_ids = pool.submit(function_id, *([number] for number in range(40)))
    async with pool.agent() as agent:
        async with asyncio.timeout(15):
            results = [(await pool.ended(task_id))["result"] for task_id in task_ids]

        assert results == list(range(40))
        await eventually_async(lambda: agent.status["bundles"] == 0)
        assert agent._in_hand.bytes == 0


async def test_what_still_runs_in_a_pool_that_drains_is_not_given_to_another(
    pool: Pool, service: RunningService, tmp_path: Path
) -> None:
    function_id, effects = service.add_function(TRACE, name="trace"), tmp_path / "effects"
    async with pool.agent() as second:
        async with pool.agent(grace_s=6.0):
            # Only the first one takes tasks.
            second._draining = True
            (task_id,) = pool.submit(
                function_id, [str(effects), 3.0]
            )  # longer than the bus waits for a sign of progress
            await eventually_async(lambda: effects.read_text() == "ran\n" if effects.exists() else False)
            second._draining = False

        assert (await pool.ended(task_id))["result"] == 1
        assert effects.read_text() == "ran\n"


async def test_a_task_whose_pool_is_stopped_in_order_is_never_given_up(
    pool: Pool, service: RunningService, tmp_path: Path
) -> None:
    function_id, effects = service.add_function(TRACE, name="trace"), tmp_path / "effects"
    (task_id,) = pool.submit(function_id, [str(effects), 60])
    stops = TRUSTED_DELIVERIES + MOST_LOSSES + 1
    for number in range(1, stops + 1):
        async with pool.agent(grace_s=0.0) as agent:
            await eventually_async(lambda: effects.exists() and effects.read_text() == number * "ran\n", 10)  # noqa: B023 - called in this turn only
            (held,) = agent._in_hand.bundles.values()
            assert held.is_suspect == (number > TRUSTED_DELIVERIES)
            assert not any(held.losses.values())

    document = await asyncio.to_thread(service.http().get, f"/api/v1/tasks/{task_id}")
    assert document.json()["state"] in ("pending", "running")


async def test_a_bundle_that_contradicts_itself_is_dropped_and_the_others_run(
    pool: Pool, service: RunningService
) -> None:
    function_id = service.add_function()
    async with pool.agent() as agent:
        bundle = Bundle(
            result_key=b"r" * 32,
            functions=[],
            options=[],
            tasks=[Task(0, 0, 3, JSON, b"")],
            runtime=Runtime(python="3.11.0", headrace="0"),
        )
        address = await pool.store(bundle, agent._grant.pool_secret, expires=int(time.time()) + 60)
        (task_id,) = pool.submit(function_id, [7])
        assert (await pool.ended(task_id))["result"] == 7
        await eventually_async(lambda: agent.status["bundles"] == 0)

        async def queued(connection: Connection) -> bool:
            return await connection.read_last("TASKS", address.task_subject) is not None

        # It is acked with others, a moment later.
        await asyncio.to_thread(eventually, lambda: not service.bus(queued), 10)


async def test_a_task_that_was_signed_too_long_ago_fails_and_is_not_waited_for_in_vain(
    pool: Pool, service: RunningService
) -> None:
    async with pool.agent() as agent:
        (first,) = pool.submit(service.add_function(), [7])  # from here on the principal has a lane
        await pool.ended(first)
        bundle = Bundle(
            result_key=b"r" * 32,
            functions=[FunctionUse(uuid4(), b"g" * 32, 1)],
            options=[TaskOptions()],
            tasks=[Task(0, 0, 0, JSON, b""), Task(1, 0, 0, JSON, b"")],
            runtime=Runtime(python="3.11.0", headrace="0"),
        )
        address = await pool.store(bundle, agent._grant.pool_secret, expires=int(time.time()) - 5)

        async def read(connection: Connection) -> list[TaskResult]:
            parts = await read_parts(connection, address, bundle.result_key)
            return parts[0].part.results if parts else []

        results = await asyncio.to_thread(eventually, lambda: service.bus(read), 10)

        failures = [decode_failure(result.value) for result in results]
        assert [(result.index, result.state) for result in results] == [(0, "failed"), (1, "failed")]
        assert {failure.code for failure in failures} == {"SubmissionRefused"}
        assert "the key had expired" in failures[0].message
        await eventually_async(lambda: agent.status["bundles"] == 0)


async def test_the_code_of_a_function_is_fetched_with_the_grant_that_is_good_by_then(
    pool: Pool, service: RunningService
) -> None:
    function_id = service.add_function()
    async with pool.agent() as agent:
        good = agent._grant
        agent.adopt(dataclasses.replace(good, code_token="of yesterday"))
        (task_id,) = pool.submit(function_id, [7])
        await eventually_async(lambda: agent.status["bundles"] == 1)

        agent.adopt(good)

        assert (await pool.ended(task_id))["result"] == 7


def set_room_for_marks(service: RunningService, size: int) -> None:
    async def work(connection: Connection) -> None:
        config = (await connection.api("STREAM.INFO.PROGRESS"))["config"]
        await connection.api("STREAM.UPDATE.PROGRESS", {**config, "max_bytes": size})

    service.bus(work)
