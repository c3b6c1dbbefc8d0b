"""Batches on the bus are stored whole or not at all, whoever is killed in between."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from pathlib import Path

import pytest
from waiting import eventually_async

from headrace.bus.errors import BusUnavailable
from headrace.bus.installation.operator import Operator
from headrace.bus.installation.server import NatsServer, ServerSettings
from headrace.bus.nats.at_once import NewMessage, store_all_or_none
from headrace.bus.nats.connection import Connection
from headrace.bus.store.streams import Stream, ensure_stream

pytestmark = pytest.mark.anyio

KILLS, SIZE = 3, 200


def batch(subject: str, size: int = SIZE) -> list[NewMessage]:
    return [(f"parcel.{subject}", b"%d" % place, {"Nats-Msg-Id": f"{subject} {place}"}) for place in range(size)]


async def test_a_batch_is_stored_whole_or_not_at_all_also_where_some_of_it_was_there(tmp_path: Path) -> None:
    operator = Operator.open(tmp_path / "keys")
    settings = ServerSettings(accounts=operator.accounts(), directory=tmp_path / "nats", relaxed=True)
    async with (
        NatsServer(settings) as server,
        Connection([server.url], operator.minter.core_user("test", 600), name="test") as bus,
    ):
        await ensure_stream(bus, Stream("PARCELS", ("parcel.>",), {"allow_atomic": True}))

        await asyncio.gather(*(store_all_or_none(bus, batch("some")[place:][:1]) for place in (3, 5)))
        again = await store_all_or_none(bus, batch("some", 8))
        assert [each.duplicate for each in again] == [place in (3, 5) for place in range(8)]
        assert [each.sequence for each in again if not each.duplicate] == list(range(3, 9))
        assert [each.duplicate for each in await store_all_or_none(bus, batch("some", 8))] == [True] * 8

        async def publish(name: str, killed: asyncio.Event) -> None:
            numbers = itertools.count()
            while not killed.is_set():
                subject = f"{name}-{next(numbers)}"
                # Also while it lives it may take longer to answer, on a machine with much else to do.
                with contextlib.suppress(BusUnavailable):
                    await store_all_or_none(bus, batch(subject), timeout_s=0.1)
                    acknowledged.add(f"parcel.{subject}")

        acknowledged: set[str] = set()
        for number in range(KILLS):
            killed = asyncio.Event()
            publishing = [asyncio.create_task(publish(f"{number}-{each}", killed)) for each in "ab"]
            await eventually_async(lambda: any(name.startswith(f"parcel.{number}-") for name in acknowledged), 20)  # noqa: B023 - called in this turn only
            server.kill()
            await server.wait()
            killed.set()
            await asyncio.gather(*publishing)
            await server.start()
            await bus.wait_connected(10)

        state = (await bus.api("STREAM.INFO.PARCELS", {"subjects_filter": ">"}))["state"]
        del state["subjects"]["parcel.some"]
        assert set(state["subjects"].values()) == {SIZE}
        assert acknowledged <= set(state["subjects"])
