"""Feeds: messages of another system's NATS server become events, each once where a stream holds them."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from service import Loop, RunningService
from waiting import eventually

from headrace.bus.eventing.leases import holder_of
from headrace.bus.installation.credentials import Credentials
from headrace.bus.installation.nats_binary import find_binary
from headrace.bus.names import event_stream
from headrace.bus.nats.connection import Connection
from headrace.bus.nats.message import Message
from headrace.bus.store.tables import Tables
from headrace.sdk import Client, RequestRefused

USER, PASSWORD = "plc", "of a test"


@dataclass
class Other:
    """Another system's NATS server, with streams, which knows one user."""

    url: str
    loop: Loop

    def do(self, work: Any) -> Any:
        """`await work(connection)` as that user."""

        async def connected() -> Any:
            credentials = Credentials(jwt="", seed="", user=USER, password=PASSWORD)
            async with Connection([self.url], credentials, name="plc") as connection:
                return await work(connection)

        return self.loop.run(connected())


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Other]:
    home = tmp_path_factory.mktemp("other")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    narrow = {"user": "narrow", "password": PASSWORD, "permissions": {"subscribe": ["_INBOX.>"]}}
    users = {"users": [{"user": USER, "password": PASSWORD}, narrow]}
    config = {"port": port, "host": "127.0.0.1", "jetstream": {"store_dir": str(home)}, "authorization": users}
    (home / "nats.conf").write_text(json.dumps(config))
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([find_binary(), "-c", home / "nats.conf"], stdout=log, stderr=log)
    loop = Loop()
    try:
        found = Other(f"nats://127.0.0.1:{port}", loop)
        eventually(lambda: b"Server is ready" in (home / "log").read_bytes(), 20, "the other server")
        yield found
    finally:
        loop.close()
        process.kill()
        process.wait()


def feed(client: Client, other: Other, bus: str, **more: Any) -> str:
    client.create_bus(bus)
    credential = {"user": USER, "password": PASSWORD}
    body = {"urls": [other.url], "bus": bus, "credential": credential, **more}
    return str(client.create_feed(body)["feed_id"])


def events_of(service: RunningService, bus: str) -> list[dict[str, Any]]:
    answer = service.http().get("/api/v1/events", params={"bus": bus, "limit": 500}).json()
    return [each["event"] for each in reversed(answer["events"])]


def status(client: Client, feed_id: str) -> dict[str, Any]:
    return dict(client.get_feed(feed_id).get("status") or {"state": "none", "problem": ""})


async def free(connection: Connection, feed_id: str) -> bool:
    """Whether nobody reads a feed."""
    return await holder_of(Tables.on(connection).leases, f"feed-{feed_id.replace('-', '')}") is None


def test_plain_messages_become_events_as_the_feed_says(service: RunningService, client: Client, other: Other) -> None:
    shape = {
        "type": "org.example.{{ message.tokens[1] }}",
        "source": "/plc/{{ message.headers['line'] if message.headers.line is defined else 'none' }}",
        "subject": "{{ message.data.part if message.data is mapping else '' }}",
    }
    feed_id = feed(client, other, "plain", subjects=["plc.*.value"], shape=shape)
    eventually(lambda: status(client, feed_id)["state"] == "reading", 20, "the feed")

    async def announce(connection: Connection) -> None:
        await connection.publish("plc.press.value", b'{"part": "P-1", "bar": 3.5}', headers={"Line": "7"})
        await connection.publish("plc.oven.value", b"\x00\x01")
        await connection.publish("plc.oven.other", b"1")
        await connection.flush()

    other.do(announce)
    eventually(lambda: len(events_of(service, "plain")) == 2, 20, "two events")
    press, oven = events_of(service, "plain")
    assert (press["type"], press["source"], press["subject"]) == ("org.example.press", "/plc/7", "P-1")
    assert press["data"] == {"part": "P-1", "bar": 3.5}
    assert (oven["type"], oven["subject"], oven["data_base64"]) == ("org.example.oven", "plc.oven.value", "AAE=")
    assert press["id"] != oven["id"]

    shown = client.get_feed(feed_id)
    assert shown["signs_in"] is True
    assert PASSWORD not in json.dumps(client.list_feeds())
    client.delete_feed(feed_id)
    with pytest.raises(RequestRefused):
        client.get_feed(feed_id)


def test_messages_of_a_stream_are_stored_once_in_their_order_whatever_happens_to_who_reads_them(
    service: RunningService, client: Client, other: Other
) -> None:
    async def fill(connection: Connection) -> None:
        await connection.api("STREAM.CREATE.LAB", {"name": "LAB", "subjects": ["lab.>"]})
        for number in range(700):
            await connection.publish("lab.n", str(number).encode())
        await connection.publish("lab.bad", b"not JSON")
        await connection.store("lab.n", b"700")

    other.do(fill)
    shape = {"type": "n", "data": "json"}
    feed_id = feed(client, other, "lab", subjects=["lab.>"], stream="LAB", start="all", shape=shape)
    eventually(lambda: len(client.list_buses()) and client.get_bus("lab")["events"] >= 100, 20, "some")
    client.change_feed(feed_id, paused=True)
    client.change_feed(feed_id, paused=False)
    eventually(lambda: client.get_bus("lab")["events"] == 701, 30, "all")

    async def held(connection: Connection) -> list[int]:
        query = {"seq": 1, "next_by_subj": "event.lab.>", "batch": 1000}
        messages, _ = await connection.read_many(event_stream("lab"), query)
        return [json.loads(message.data)["data"] for message in messages]

    assert service.bus(held) == list(range(701))
    first = events_of(service, "lab")[-1]
    assert first["id"].startswith("LAB@")
    assert first["id"].endswith(":702")

    async def all_acked(connection: Connection) -> bool:
        (consumer,) = (await connection.api("CONSUMER.NAMES.LAB"))["consumers"]
        info = await connection.api(f"CONSUMER.INFO.LAB.{consumer}")
        return not info["num_pending"] and not info["num_ack_pending"]

    # What a reader had in hand when it died comes first, not half a minute later.
    async def take_and_die(connection: Connection) -> None:
        for number in (701, 702):
            await connection.store("lab.n", str(number).encode())
        (consumer,) = (await connection.api("CONSUMER.NAMES.LAB"))["consumers"]
        came: asyncio.Queue[Message] = asyncio.Queue()
        inbox = await connection.subscribe_inbox("taken", came.put_nowait)
        await connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.LAB.{consumer}", b'{"batch": 2}', reply=inbox.subject)
        assert [(await came.get()).data for _ in range(2)] == [b"701", b"702"]
        await connection.store("lab.n", b"703")

    # What is stored is acked a moment later.
    eventually(lambda: other.do(all_acked), 20, "all are acked")
    client.change_feed(feed_id, paused=True)
    eventually(lambda: service.bus(lambda connection: free(connection, feed_id)), 20, "nobody reads")
    other.do(take_and_die)
    client.change_feed(feed_id, paused=False)
    eventually(lambda: client.get_bus("lab")["events"] == 704, 20, "those as well")
    assert service.bus(held) == list(range(704))

    # What was not acked comes once more, and is known.
    async def forget(connection: Connection) -> None:
        for name in (await connection.api("CONSUMER.NAMES.LAB"))["consumers"]:
            await connection.api(f"CONSUMER.DELETE.LAB.{name}")

    other.do(forget)
    eventually(lambda: status(client, feed_id).get("duplicates", 0) >= 704, 30, "all again")
    assert client.get_bus("lab")["events"] == 704
    assert status(client, feed_id)["refused"] >= 1

    client.delete_bus("lab")
    with pytest.raises(RequestRefused):
        client.get_feed(feed_id)


def test_a_feed_that_cannot_go_on_says_why(service: RunningService, client: Client, other: Other) -> None:
    wrong = feed(client, other, "wrong", subjects=["x"], credential={"user": USER, "password": "another"})
    missing = client.create_feed(
        {
            "urls": [other.url],
            "subjects": ["x"],
            "stream": "NOWHERE",
            "bus": "wrong",
            "credential": {"user": USER, "password": PASSWORD},
        }
    )["feed_id"]
    narrow = {"user": "narrow", "password": PASSWORD}
    denied = client.create_feed({"urls": [other.url], "subjects": ["x"], "bus": "wrong", "credential": narrow})[
        "feed_id"
    ]
    eventually(lambda: "does not allow" in status(client, denied)["problem"], 20, "a refusal")
    eventually(lambda: "does not accept" in status(client, wrong)["problem"], 20, "a refusal")
    eventually(lambda: "stream not found" in status(client, missing)["problem"], 20, "a refusal")
    for feed_id in (wrong, missing, denied):
        client.delete_feed(feed_id)


def test_what_cannot_be_a_feed_is_refused_with_the_place(
    service: RunningService, client: Client, tmp_path: Path
) -> None:
    good = {"urls": ["nats://127.0.0.1:1"], "subjects": ["a.*"], "paused": True}
    for change, place in (
        ({"subjects": ["a.*", "*.b"]}, "/subjects"),
        ({"start": "all"}, "/start"),
        ({"urls": ["nats://ada:secret@host"]}, "/urls/0"),
        ({"subjects": ["a..b"]}, "/subjects/0"),
        ({"shape": {"type": "{{ message."}}, "/shape/type"),
        ({"shape": {"type": "{{ event.type }}"}}, "/shape/type"),
        ({"shape": {"form": "cloudevents", "type": "t"}}, "/shape"),
        ({"credential": {"creds": "nothing"}}, "/credential/creds"),
        ({"credential": {"nkey": "SUABC"}}, "/credential/nkey"),
        ({"credential": {"user": "ada"}}, "/credential"),
    ):
        with pytest.raises(RequestRefused) as refused:
            client.create_feed({**good, **change})
        assert refused.value.errors[0].pointer == place
    ada = service.add_user("feeder")
    with Client(service.url, ada) as user, pytest.raises(RequestRefused, match="administrator"):
        user.create_feed(good)
