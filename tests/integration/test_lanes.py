"""Lanes come and go while work is queued, and nothing is stranded: whatever is in TASKS is taken by its pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from running_pool import RunningPool, running_pool
from service import RunningService, running_service
from waiting import eventually

from headrace.bus.errors import SignatureInvalid
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.names import lane_key, lane_tasks
from headrace.bus.nats.connection import Connection
from headrace.bus.queues.lane_consumers import LaneState
from headrace.bus.queues.lane_news import LaneName, decode_news, encode_news
from headrace.bus.queues.lanes import Lanes
from headrace.bus.store.models import LaneRecord
from headrace.bus.store.streams import delete_consumer, ensure_consumer, purge
from headrace.bus.store.tables import Tables

ADMIN = "urn:headrace:user:admin"


class Desk:
    """The lane of the administrator at an endpoint whose pool is started and stopped."""

    def __init__(self, service: RunningService, pool: RunningPool) -> None:
        self.service = service
        self.pool = pool
        self.endpoint = UUID(pool.endpoint_id)
        self.function = service.add_function()
        self.key = lane_key(self.endpoint, "default", ADMIN)

    def submit(self, value: int) -> str:
        body = {"function_id": self.function, "args": [value]}
        answer = self.service.http().post(f"/api/v1/endpoints/{self.endpoint}/tasks", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["tasks"][0]["task_id"])

    def result(self, task_id: str) -> Any:
        answer = self.service.http().get(f"/api/v1/tasks/{task_id}", params={"wait": "8s"}).json()
        assert answer["state"] == "succeeded", answer
        return answer["result"]

    def lanes(self, work: Callable[[Connection, Lanes], Awaitable[Any]]) -> Any:
        """`await work(connection, lanes)` as a service that has just started would."""

        async def connected(connection: Connection) -> Any:
            keys = ServiceKeys.load(self.service.keys_dir).key_ring()
            return await work(connection, Lanes(connection, keys, Tables.on(connection).lanes))

        return self.service.bus(connected)

    def sweep(self) -> None:
        async def work(_: Connection, lanes: Lanes) -> None:
            await lanes.sweep()

        self.lanes(work)

    def names(self) -> list[str]:
        """The consumers of this endpoint."""

        async def work(connection: Connection, _: Lanes) -> list[str]:
            found = (await connection.api("CONSUMER.LIST.TASKS"))["consumers"]
            return [each["name"] for each in found if self.endpoint.hex in str(each["config"])]

        return list(self.lanes(work))

    def lose(self, *, record: bool) -> None:
        """Take the lane away under everybody's hands, as a crash in the wrong moment might."""

        async def work(connection: Connection, lanes: Lanes) -> None:
            for lane in await lanes.of(self.endpoint):
                if record:
                    await Tables.on(connection).lanes.delete(self.key)
                await delete_consumer(connection, "TASKS", lane.consumer)

        self.lanes(work)

    def age(self) -> None:
        """The use of the lane has run out long ago."""

        async def work(connection: Connection, _: Lanes) -> None:
            def aged(record: Any) -> Any:
                return msgspec.structs.replace(record, used_until=time.time() - 3600)

            await Tables.on(connection).lanes.change(self.key, aged)

        self.lanes(work)


@pytest.fixture
def desk(service: RunningService, tmp_path: Path) -> Iterator[Desk]:
    with running_pool(service, tmp_path / "pool", workers=1, started=False, name=uuid4().hex) as pool:
        yield Desk(service, pool)


@pytest.mark.parametrize("record", [False, True], ids=["its consumer", "its record and its consumer"])
@pytest.mark.parametrize(
    "order", ["submit lose sweep start", "submit lose start sweep", "start submit lose submit sweep"]
)
def test_work_whose_lane_has_lost_something_runs_all_the_same(desk: Desk, order: str, record: bool) -> None:
    tasks: list[str] = []
    steps = {
        "submit": lambda: tasks.append(desk.submit(len(tasks))),
        "lose": lambda: desk.lose(record=record),
        "sweep": desk.sweep,
        "start": desk.pool.start,
    }
    for step in order.split():
        steps[step]()

    assert [desk.result(task) for task in tasks] == list(range(len(tasks)))


def test_a_lane_that_is_empty_and_not_used_is_removed_and_made_again_for_the_next_use(desk: Desk) -> None:
    desk.pool.start()
    assert desk.result(desk.submit(1)) == 1
    eventually(lambda: desk.service.bus(_messages) == 0, 5)
    (before,) = desk.names()
    desk.age()

    desk.sweep()
    assert desk.names() == []

    async def use(_: Connection, lanes: Lanes) -> None:
        await lanes.use(desk.endpoint, "default", ADMIN)

    desk.lanes(use)
    assert desk.names() != [before]
    assert desk.result(desk.submit(2)) == 2


def test_a_lane_with_work_stays_however_long_its_endpoint_is_away(desk: Desk) -> None:
    task = desk.submit(1)
    desk.age()

    desk.sweep()

    assert len(desk.names()) == 1
    desk.pool.start()
    assert desk.result(task) == 1


def test_an_endpoint_that_is_registered_anew_keeps_what_is_queued(desk: Desk) -> None:
    task = desk.submit(1)
    before = desk.names()
    again = {"name": "again", "endpoint_id": str(desk.endpoint)}
    answer = desk.service.http().post("/api/v1/endpoints", json=again)
    desk.pool.settings_path.parent.joinpath("endpoint.token").write_text(answer.json()["endpoint_token"])

    assert desk.names() != before
    desk.pool.start()
    assert desk.result(task) == 1


def test_a_consumer_that_is_made_again_says_what_may_be_in_others_hands(desk: Desk) -> None:
    """Its state is in the server's memory; what was given away before, nobody remembers."""
    desk.submit(1)

    async def look(_: Connection, lanes: Lanes) -> tuple[int, LaneState]:
        (lane,) = await lanes.open(desk.endpoint, "default")
        return lane.remade_up_to, await lanes.state(desk.endpoint, "default", ADMIN)

    told, state = desk.lanes(look)
    assert (told, state.remade_up_to, state.in_memory) == (0, 0, True)

    desk.lose(record=False)

    async def state_of(_: Connection, lanes: Lanes) -> LaneState:
        return await lanes.state(desk.endpoint, "default", ADMIN)

    last = desk.service.bus(_last)
    assert desk.lanes(state_of).taken_up_to == last

    async def all_at_once(connection: Connection, lanes: Lanes) -> set[int]:
        several = [lanes, *(Lanes(connection, lanes._keys, lanes._records) for _ in range(4))]
        await asyncio.gather(
            *(each.open(desk.endpoint, "default") for each in several),
            *(each.use(desk.endpoint, "default", ADMIN) for each in several),
            *(each.sweep() for each in several),
        )
        return {lane.remade_up_to for each in several for lane in await each.open(desk.endpoint, "default")}

    assert desk.lanes(all_at_once) == {last}
    desk.submit(2)
    told, state = desk.lanes(look)
    assert (told, state.remade_up_to, state.taken_up_to, state.depth.waiting) == (last, last, last, 2)
    # The other tests of this module count what is queued.
    desk.service.bus(lambda connection: purge(connection, "TASKS", f"task.{desk.endpoint.hex}.>"))


def test_after_a_restart_of_the_bus_its_service_makes_the_lanes_again(tmp_path: Path) -> None:
    with (
        running_service(tmp_path / "service", lanes_sweep_s=3600.0) as service,
        running_pool(service, tmp_path / "pool", workers=1, started=False) as pool,
    ):
        desk = Desk(service, pool)
        task = desk.submit(1)
        before = desk.names()

        service.nats.kill()
        service.loop.run(service.nats.start())

        # Nobody asks for it, and a sleeping pool is woken only by what its lane holds.
        eventually(lambda: desk.names() == before, 10)
        pool.start()
        assert desk.result(task) == 1


def test_a_lane_that_is_gone_again_while_it_is_made_says_what_it_gave_in_between(desk: Desk) -> None:
    """The server is started twice within one sweep, and another service was quicker after the first time."""
    desk.submit(1)
    desk.lose(record=False)
    keys = ServiceKeys.load(desk.service.keys_dir)

    class Overtaken(Lanes):
        async def _announce(self, lane: LaneRecord, remade_up_to: int) -> None:
            if lane.endpoint_id == desk.endpoint and not overtaken:
                overtaken.append(remade_up_to)
                await asyncio.to_thread(desk.submit, 2)
                # What a restart does: the consumer goes with the link.
                await delete_consumer(self._connection, "TASKS", lane.consumer)
                await self._connection.renew(keys.core)
            await super()._announce(lane, remade_up_to)

    async def work(connection: Connection, lanes: Lanes) -> int:
        await Overtaken(connection, lanes._keys, lanes._records).sweep()
        return (await lanes.state(desk.endpoint, "default", ADMIN)).remade_up_to

    overtaken: list[int] = []
    assert desk.lanes(work) == desk.service.bus(_last) == overtaken[0] + 1
    desk.service.bus(lambda connection: purge(connection, "TASKS", f"task.{desk.endpoint.hex}.>"))


def test_a_lane_of_an_earlier_release_moves_into_memory_once_it_is_empty(desk: Desk) -> None:
    task = desk.submit(1)

    async def be_old(connection: Connection, lanes: Lanes) -> None:
        (lane,) = await lanes.of(desk.endpoint)
        await delete_consumer(connection, "TASKS", lane.consumer)
        await ensure_consumer(
            connection,
            "TASKS",
            lane.consumer,
            filter_subjects=(lane_tasks(desk.endpoint, "default", ADMIN),),
            ack_wait_s=1.75,
            max_ack_pending=4096,
        )

    async def in_memory(_: Connection, lanes: Lanes) -> bool:
        return (await lanes.state(desk.endpoint, "default", ADMIN)).in_memory

    desk.lanes(be_old)
    desk.sweep()
    assert not desk.lanes(in_memory)
    task_2 = desk.submit(2)
    desk.pool.start()
    assert [desk.result(each) for each in (task, task_2)] == [1, 2]

    def moved() -> bool:
        desk.sweep()
        return bool(desk.lanes(in_memory))

    eventually(moved, 5, "what is done was acked")
    assert desk.result(desk.submit(3)) == 3


def test_what_an_earlier_release_has_queued_runs_and_its_consumer_goes(tmp_path: Path) -> None:
    """Before there were lanes, each pool had one consumer for everybody's bundles."""
    with (
        running_service(tmp_path / "service") as service,
        running_pool(service, tmp_path / "pool", workers=1, started=False) as pool,
    ):
        desk = Desk(service, pool)
        tasks = [desk.submit(number) for number in range(3)]
        desk.lose(record=True)
        old = f"pool-{desk.endpoint.hex}-default"

        async def be_old(connection: Connection, _: Lanes) -> None:
            everything = (f"task.{desk.endpoint.hex}.default.>",)
            await ensure_consumer(
                connection, "TASKS", old, filter_subjects=everything, ack_wait_s=1.75, max_ack_pending=4096
            )

        desk.lanes(be_old)
        # A pool of that release is told what to do, and takes nothing from anybody.
        token = (tmp_path / "pool" / "endpoint.token").read_text()
        about = {"pool": "default", "python_version": "3.11.0", "headrace_version": "0", "host": "h", "protocol": 1}
        refused = service.http(token).post(f"/api/v1/endpoints/{desk.endpoint}/pools", json=about)
        assert refused.status_code == 409
        assert "earlier release" in refused.json()["detail"]

        pool.start()
        desk.sweep()

        assert [desk.result(task) for task in tasks] == [0, 1, 2]
        assert old not in desk.names()


def test_what_is_used_while_an_earlier_release_takes_it_changes_hands(desk: Desk) -> None:
    async def be_old(connection: Connection, _: Lanes) -> None:
        await ensure_consumer(
            connection,
            "TASKS",
            f"pool-{desk.endpoint.hex}-default",
            filter_subjects=(f"task.{desk.endpoint.hex}.default.>",),
            ack_wait_s=1.75,
            max_ack_pending=4096,
        )

    desk.lanes(be_old)
    task = desk.submit(7)

    assert [name[:5] for name in desk.names()] == ["lane-"]
    desk.pool.start()
    assert desk.result(task) == 7


def test_the_news_of_a_lane_are_believed_from_the_service_alone() -> None:
    name, secret = LaneName("lane-1", ADMIN), b"s" * 32
    message = encode_news(name, subject="control.e.p.lanes", pool_secret=secret)

    assert decode_news(message, subject="control.e.p.lanes", pool_secret=secret) == name
    for forged, subject in (
        (message[:-1] + bytes([message[-1] ^ 1]), "control.e.p.lanes"),
        (message, "control.other.p.lanes"),
    ):
        with pytest.raises(SignatureInvalid):
            decode_news(forged, subject=subject, pool_secret=secret)


async def _last(connection: Connection) -> int:
    return int((await connection.api("STREAM.INFO.TASKS"))["state"]["last_seq"])


async def _messages(connection: Connection) -> int:
    return int((await connection.api("STREAM.INFO.TASKS"))["state"]["messages"])
