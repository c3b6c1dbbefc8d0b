"""What is stored together meets what it would meet alone: its place, its refusal, or a bus that comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace.bus.errors import AlreadyStored, BusUnavailable, PayloadTooLarge
from headrace.bus.installation.operator import Operator
from headrace.bus.installation.server import NatsServer, ServerSettings
from headrace.bus.nats.connection import RETRY_HEADER, Connection
from headrace.bus.nats.gathering import MOST_UNDER_WAY, Gathering, Gatherings
from headrace.bus.store.streams import Stream, ensure_stream

pytestmark = pytest.mark.anyio

MANY = 300


@dataclass
class Desk:
    server: NatsServer
    bus: Connection
    gathering: Gathering

    async def stored(self) -> dict[int, tuple[str, bool]]:
        """What the stream holds: by sequence the subject, and whether it is marked as repeated."""
        messages, _ = await self.bus.read_many("PARCELS", {"seq": 1, "next_by_subj": "parcel.>", "batch": 1000})
        return {each.sequence: (each.subject, RETRY_HEADER in each.headers) for each in messages}

    async def batches(self) -> int:
        """How many messages came in batches."""
        messages, _ = await self.bus.read_many("PARCELS", {"seq": 1, "next_by_subj": "parcel.>", "batch": 1000})
        return sum("Nats-Batch-Id" in each.headers for each in messages)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    operator = Operator.open(tmp_path / "keys")
    settings = ServerSettings(accounts=operator.accounts(), directory=tmp_path / "nats", relaxed=True)
    async with (
        NatsServer(settings) as server,
        Connection([server.url], operator.minter.core_user("test", 600), name="test") as bus,
    ):
        first_wins = {"max_msgs_per_subject": 1, "discard": "new", "discard_new_per_subject": True}
        options = {**first_wins, "allow_atomic": True, "allow_direct": True}
        await ensure_stream(bus, Stream("PARCELS", ("parcel.>",), options))
        yield Desk(server, bus, Gatherings(bus).of("PARCELS"))


async def test_many_at_once_go_together_and_each_learns_its_own_place(desk: Desk) -> None:
    answers = await asyncio.gather(*(desk.gathering.store(f"parcel.{place}", b"x") for place in range(MANY)))

    places = {each.sequence: (f"parcel.{place}", False) for place, each in enumerate(answers)}
    assert await desk.stored() == places
    assert await desk.batches() == MANY - MOST_UNDER_WAY


async def test_large_ones_each_go_their_own_way(desk: Desk) -> None:
    # In a batch they would be written twice, and the sync that it spares is little beside so many bytes.
    content = bytes(400_000)

    answers = await asyncio.gather(*(desk.gathering.store(f"parcel.{place}", content) for place in range(30)))

    assert {each.sequence for each in answers} == set(range(1, 31))
    assert await desk.batches() == 0


async def test_one_that_is_there_already_is_refused_alone(desk: Desk) -> None:
    await desk.bus.store(f"parcel.{MANY - 1}", b"before")

    answers = await asyncio.gather(
        *(desk.gathering.store(f"parcel.{place}", b"x", retry=place == 40) for place in range(MANY)),
        desk.gathering.store("parcel.large", b"x" * (desk.bus.max_payload + 1)),
        return_exceptions=True,
    )

    assert isinstance(answers.pop(), PayloadTooLarge)
    assert [type(each) for each in answers if isinstance(each, BaseException)] == [AlreadyStored]
    stored = await desk.stored()
    assert {subject for subject, _ in stored.values()} == {f"parcel.{place}" for place in range(MANY)}
    assert [subject for subject, is_repeated in stored.values() if is_repeated] == ["parcel.40"]


async def test_who_leaves_takes_nobody_along_and_a_bus_that_comes_back_has_everything_once(desk: Desk) -> None:
    storing = [asyncio.create_task(desk.gathering.store(f"parcel.{place}", b"x")) for place in range(MANY)]
    await asyncio.sleep(0)  # no time: all have begun
    for place in range(0, MANY, 7):
        storing[place].cancel()
    await asyncio.wait(storing, return_when=asyncio.FIRST_COMPLETED)
    desk.server.kill()
    await desk.server.wait()
    more = [asyncio.create_task(desk.gathering.store(f"parcel.more-{place}", b"x")) for place in range(MANY)]
    await desk.server.start()

    # What was stored before the kill, and not acknowledged, is refused the second time: then it is there.
    for each in (*storing, *more):
        with contextlib.suppress(AlreadyStored, asyncio.CancelledError):
            await each

    there = {subject for subject, _ in (await desk.stored()).values()}
    assert {f"parcel.{place}" for place in range(MANY) if place % 7} <= there
    assert {f"parcel.more-{place}" for place in range(MANY)} <= there


async def test_nobody_waits_longer_than_its_time_also_behind_many_others(desk: Desk) -> None:
    desk.server.kill()
    await desk.server.wait()

    async with asyncio.timeout(10):  # one after the other they would take longer
        answers = await asyncio.gather(
            *(desk.gathering.store(f"parcel.{place}", b"x", timeout_s=1) for place in range(MANY)),
            return_exceptions=True,
        )

    assert {type(each) for each in answers} == {BusUnavailable}
