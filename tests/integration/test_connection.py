"""The connection to the bus, against a real server that is also killed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from waiting import eventually_async

from headrace.bus.errors import (
    AlreadyStored,
    BusUnavailable,
    PayloadTooLarge,
    PermissionDenied,
    RecordConflict,
    StreamFull,
    StreamMissing,
)
from headrace.bus.installation.credentials import Credentials
from headrace.bus.installation.operator import Operator
from headrace.bus.installation.server import NatsServer, ServerSettings
from headrace.bus.names import Address, stored_results
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.nats.pull import Delivery, Puller
from headrace.bus.store.records import Record, Records
from headrace.bus.store.streams import Stream, StreamSettings, ensure, ensure_consumer, ensure_stream

pytestmark = pytest.mark.anyio

ADA = "urn:headrace:user:ada"


@dataclass
class Bus:
    """A server with the streams, the service's connection, and who mints credentials."""

    server: NatsServer
    operator: Operator
    core: Connection

    def sdk(self, endpoint: uuid.UUID, ttl_s: float = 60) -> Credentials:
        return self.operator.minter.sdk_user(ADA, endpoint, "default", uuid.uuid4().hex, ttl_s)

    def pool(self, endpoint: uuid.UUID) -> Credentials:
        return self.operator.minter.pool_user(endpoint, "default", uuid.uuid4().hex, 60)


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    operator = Operator.open(tmp_path / "keys")
    async with (
        NatsServer(ServerSettings(accounts=operator.accounts(), directory=tmp_path / "nats")) as server,
        Connection([server.url], operator.minter.core_user("test", 600), name="test") as core,
    ):
        await ensure(core, StreamSettings())
        yield Bus(server, operator, core)


def an_address(endpoint: uuid.UUID) -> Address:
    return Address(endpoint=endpoint, pool="default", principal=ADA, group=uuid.uuid4(), bundle=uuid.uuid4())


class Thing(msgspec.Struct):
    size: int


async def test_ensuring_the_streams_again_changes_nothing(bus: Bus) -> None:
    before = await bus.core.api("STREAM.INFO.TASKS")

    await ensure(bus.core, StreamSettings())

    assert (await bus.core.api("STREAM.INFO.TASKS"))["config"] == before["config"]


async def test_a_bundle_that_is_queued_is_refused_the_second_time_also_after_a_kill(bus: Bus) -> None:
    address = an_address(uuid.uuid4())
    await bus.core.store(address.task_subject, b"one")
    with pytest.raises(AlreadyStored):
        await bus.core.store(address.task_subject, b"two")

    bus.server.kill()
    await bus.server.wait()
    await bus.server.start()

    with pytest.raises(AlreadyStored):
        await bus.core.store(address.task_subject, b"three")


async def test_storing_waits_for_a_server_that_comes_back_and_says_that_it_was_repeated(bus: Bus) -> None:
    endpoint = uuid.uuid4()
    consumer = "lane-1"
    await ensure_consumer(
        bus.core,
        "TASKS",
        consumer,
        filter_subjects=(f"task.{endpoint.hex}.default.>",),
        ack_wait_s=3,
        max_ack_pending=10,
    )
    taken: list[Delivery] = []
    async with Connection([bus.server.url], bus.pool(endpoint), name="pool") as pool:
        pulling = asyncio.create_task(Puller(pool, "TASKS", consumer, taken.append).run())
        async with Connection([bus.server.url], bus.sdk(endpoint), name="sdk") as sdk:
            bus.server.kill()
            await bus.server.wait()
            storing = asyncio.create_task(sdk.store(an_address(endpoint).task_subject, b"late"))
            await bus.server.start()
            await asyncio.wait_for(storing, 10)

            await eventually_async(lambda: taken, within_s=10)
        pulling.cancel()
        await asyncio.wait([pulling])
    assert taken[0].data == b"late"
    assert taken[0].retry


async def test_a_time_limit_ends_the_wait_for_a_server_that_is_gone(bus: Bus) -> None:
    bus.server.kill()
    await bus.server.wait()

    with pytest.raises(BusUnavailable, match=r"could not be stored within 0\.3 s"):
        await bus.core.store("event.a.b", b"", timeout_s=0.3)


async def test_a_flush_that_is_given_up_does_not_deafen_the_connection(bus: Bus) -> None:
    for turns in range(1, 6):
        flushing = asyncio.create_task(bus.core.flush())
        for _ in range(turns):  # so many steps into it
            await asyncio.sleep(0)  # no time: a turn of the loop
        flushing.cancel()
        await asyncio.wait((flushing,))

    await bus.core.flush()
    assert (await bus.core.api("STREAM.INFO.TASKS", timeout_s=2.0))["state"]["messages"] == 0


async def test_nothing_listening_is_an_error_and_no_hang(tmp_path: Path) -> None:
    credentials = Operator.open(tmp_path / "keys").minter.core_user("test", 60)
    connection = Connection(["nats://127.0.0.1:9"], credentials, name="test", connect_timeout_s=0.5)

    with pytest.raises(BusUnavailable, match=r"no NATS server answers at nats://127\.0\.0\.1:9"):
        await connection.open()


async def test_a_credential_of_another_operator_is_refused_in_words(bus: Bus, tmp_path: Path) -> None:
    stranger = Operator.open(tmp_path / "other").minter.core_user("stranger", 60)
    connection = Connection([bus.server.url], stranger, name="stranger", connect_timeout_s=2)

    with pytest.raises(PermissionDenied, match="does not accept this credential"):
        await connection.open()


async def test_a_subject_that_is_not_granted_is_denied_at_once(bus: Bus) -> None:
    async with Connection([bus.server.url], bus.sdk(uuid.uuid4()), name="sdk") as sdk:
        with pytest.raises(PermissionDenied, match="does not allow"):
            await sdk.store(an_address(uuid.uuid4()).task_subject, b"")


async def test_a_message_over_the_limit_names_the_limit(bus: Bus) -> None:
    with pytest.raises(PayloadTooLarge, match=str(bus.core.max_payload)) as caught:
        await bus.core.store("event.a.b", bytes(bus.core.max_payload + 1))
    assert caught.value.limit == bus.core.max_payload


async def test_a_full_stream_refuses_and_says_so(bus: Bus) -> None:
    await ensure_stream(bus.core, Stream("SMALL", ("small.>",), {"max_bytes": 2000, "discard": "new"}))
    await bus.core.store("small.a", bytes(1000))

    with pytest.raises(StreamFull, match=r"small\.b"):
        await bus.core.store("small.b", bytes(1500))


async def test_a_subject_without_a_stream_is_an_error_within_the_limit(bus: Bus) -> None:
    with pytest.raises(BusUnavailable, match="nobody listens"):
        await bus.core.store("nowhere.at.all", b"", timeout_s=0.2)
    with pytest.raises(StreamMissing):
        await bus.core.api("STREAM.INFO.NOWHERE")


async def test_a_renewal_moves_everything_to_the_new_credential(bus: Bus) -> None:
    endpoint = uuid.uuid4()
    address = an_address(endpoint)
    heard: list[Message] = []
    async with (
        Connection([bus.server.url], bus.sdk(endpoint), name="sdk") as sdk,
        Connection([bus.server.url], bus.pool(endpoint), name="pool") as pool,
    ):
        await sdk.subscribe(stored_results(endpoint, ADA, address.group), heard.append)
        inbox = await sdk.subscribe_inbox("x", heard.append)
        before = inbox.subject

        await sdk.renew(bus.sdk(endpoint))
        await sdk.flush()
        await pool.store(address.result_subject(0), b"part")

        await eventually_async(lambda: heard)
        assert inbox.subject != before
        assert await sdk.read_last("RESULTS", address.result_subject(1)) is None
        found = await sdk.read_last("RESULTS", address.result_subject(0))
        assert found is not None
        assert found.data == b"part"


async def test_an_expired_credential_is_told_and_a_renewal_mends_it(bus: Bus) -> None:
    endpoint = uuid.uuid4()
    closed = asyncio.Event()
    async with Connection([bus.server.url], bus.sdk(endpoint, ttl_s=1), name="sdk") as sdk:
        sdk.on_closed.append(closed.set)
        await asyncio.wait_for(closed.wait(), 15)
        storing = asyncio.create_task(sdk.store(an_address(endpoint).task_subject, b"x", timeout_s=20))

        await sdk.renew(bus.sdk(endpoint))

        assert (await storing).sequence > 0


async def test_records_are_created_once_updated_in_turn_and_deleted(bus: Bus) -> None:
    things = Records(bus.core, "things", Thing)
    await things.ensure()
    await things.create("a", Thing(1))
    with pytest.raises(RecordConflict):
        await things.create("a", Thing(2))
    first = await things.need("a")
    await things.update(first, Thing(3))
    with pytest.raises(RecordConflict):
        await things.update(first, Thing(4))

    assert (await things.need("a")).value == Thing(3)
    await things.delete("a")
    assert await things.get("a") is None
    await things.create("a", Thing(5))
    assert [record.value for record in await things.list()] == [Thing(5)]


async def test_many_changes_of_one_record_at_once_all_count(bus: Bus) -> None:
    things = Records(bus.core, "things", Thing)
    await things.ensure()
    await things.create("a", Thing(0))

    await asyncio.gather(*(things.change("a", lambda thing: Thing(thing.size + 1)) for _ in range(10)))

    assert (await things.need("a")).value == Thing(10)


async def test_a_list_longer_than_a_page_is_whole(bus: Bus) -> None:
    things = Records(bus.core, "things", Thing)
    await things.ensure()
    await asyncio.gather(*(things.put(f"k{i}", Thing(i)) for i in range(1203)))

    assert sorted(record.value.size for record in await things.list()) == list(range(1203))


async def test_a_watch_tells_what_is_there_what_changes_and_what_happened_while_the_server_was_gone(bus: Bus) -> None:
    things = Records(bus.core, "things", Thing)
    await things.ensure()
    await things.put("old", Thing(1))
    seen: dict[str, int | None] = {}

    def on_change(key: str, record: Record[Thing] | None) -> None:
        seen[key] = None if record is None else record.value.size

    watch = await things.watch(on_change)
    assert seen == {"old": 1}
    await things.put("new", Thing(2))
    await things.delete("old")
    await eventually_async(lambda: seen == {"old": None, "new": 2})

    bus.server.kill()
    await bus.server.wait()
    await bus.server.start()
    await things.put("new", Thing(3))
    await eventually_async(lambda: seen["new"] == 3, within_s=10)
    await watch.stop()


async def test_a_record_that_is_heard_of_while_all_are_read_is_not_taken_for_gone(bus: Bus) -> None:
    known: dict[str, Record[Thing] | None] = {}

    class SlowlyRead(Records[Thing]):
        """What is read is answered late: a record was made, and heard of, since."""

        async def list(self, prefix: str = "") -> list[Record[Thing]]:
            found = await super().list(prefix)
            await self.create("meanwhile", Thing(2))
            await eventually_async(lambda: known.get("meanwhile"))
            return found

    things = SlowlyRead(bus.core, "things", Thing)
    await things.ensure()
    await things.create("before", Thing(1))

    watch = await things.watch(known.__setitem__)

    assert {key: record and record.value.size for key, record in known.items()} == {"before": 1, "meanwhile": 2}
    await watch.stop()


async def test_a_record_that_is_deleted_while_all_are_read_does_not_come_back(bus: Bus) -> None:
    known: dict[str, Record[Thing] | None] = {}

    class SlowlyRead(Records[Thing]):
        """What is read is answered late: a record was deleted, and that was heard of, since."""

        async def list(self, prefix: str = "") -> list[Record[Thing]]:
            found = await super().list(prefix)
            await self.delete("short")
            await eventually_async(lambda: "short" in known)
            return found

    things = SlowlyRead(bus.core, "things", Thing)
    await things.ensure()
    await things.create("short", Thing(1))
    await things.create("stays", Thing(2))

    watch = await things.watch(known.__setitem__)

    assert {key: record and record.value.size for key, record in known.items()} == {"short": None, "stays": 2}
    await watch.stop()


async def test_a_record_with_a_time_to_live_goes_away_and_the_watch_tells(bus: Bus) -> None:
    things = Records(bus.core, "things", Thing)
    await things.ensure()
    gone: list[str] = []
    watch = await things.watch(lambda key, record: gone.append(key) if record is None else None)

    await things.put("short", Thing(1), ttl_s=1)

    await eventually_async(lambda: gone == ["short"], within_s=10)
    assert await things.get("short") is None
    await watch.stop()
