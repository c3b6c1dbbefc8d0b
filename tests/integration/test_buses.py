"""Named buses: who may publish and subscribe, what is kept, what events must look like, and what ends with a bus."""

from __future__ import annotations

import itertools
import json
import uuid
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from events_desk import CLOUDEVENT, NOTES, EventsDesk
from plain_http import NO_TLS
from running_pool import RunningPool
from service import RunningService
from waiting import eventually

from headrace.bus.eventing.bus_keeping import mend_buses
from headrace.bus.installation.backup import stream_names
from headrace.bus.names import event_stream, matcher_consumer
from headrace.bus.nats.connection import Connection
from headrace.bus.store.streams import delete_consumer
from headrace.bus.store.tables import Tables
from headrace.sdk import Client, Forbidden, NotFound, RequestRefused

BATCH = {"Content-Type": "application/cloudevents-batch+json"}
_names = (f"bus-{n}" for n in itertools.count())


def event(**more: Any) -> dict[str, Any]:
    return {"id": uuid.uuid4().hex, "source": "/s", "specversion": "1.0", "type": "t", **more}


@pytest.fixture(scope="module")
def ada(service: RunningService) -> str:
    return service.add_user("ada", groups=("urn:headrace:group:lab",))


@pytest.fixture(scope="module")
def bob(service: RunningService) -> str:
    return service.add_user("bob")


@pytest.fixture(scope="module")
def endpoint(service: RunningService, pool: RunningPool) -> str:
    service.http().post(f"/api/v1/endpoints/{pool.endpoint_id}/shares", json={"with": "public"})
    return pool.endpoint_id


@pytest.fixture
def name() -> str:
    return next(_names)


@pytest.fixture
def desk(service: RunningService, endpoint: str, tmp_path: Path) -> EventsDesk:
    return EventsDesk(service.http(), tmp_path, service.add_function(NOTES, "note", public=True), endpoint)


def test_only_its_owner_and_whom_the_owner_names_publish_subscribe_and_know_of_it(
    service: RunningService, client: Client, ada: str, bob: str, name: str
) -> None:
    made = client.create_bus(name, subscribers=["urn:headrace:group:lab"], description="ours")
    assert (made["owner"], made["may_publish"], made["may_subscribe"]) == ("urn:headrace:user:admin", True, True)
    assert client.publish(event(), bus=name)["sequence"] == 1
    with pytest.raises(RequestRefused, match="choose another name"):
        client.create_bus(name)

    with Client(service.url, ada) as reader, Client(service.url, bob) as stranger:
        with pytest.raises(Forbidden, match="you may not publish"):
            reader.publish(event(), bus=name)
        with pytest.raises(Forbidden, match="only its owner"):
            reader.change_bus(name, description="mine")
        assert reader.get_bus(name)["events"] == 1
        assert reader.list_buses()[0]["name"] == "default"
        assert name in [each["name"] for each in reader.list_buses()]
        assert name not in [each["name"] for each in stranger.list_buses()]
        for forbidden in (
            lambda: stranger.publish(event(), bus=name),
            lambda: stranger.get_bus(name),
            lambda: stranger.delete_bus(name),
            lambda: stranger.backtest_filter({"exact": {"type": "t"}}, bus=name),
            lambda: stranger.get_bus("nobody-has-this"),
        ):
            with pytest.raises(NotFound, match="or it is not yours to use"):
                forbidden()

        client.add_publisher(name, "urn:headrace:user:bob")
        assert stranger.publish(event(), bus=name)["sequence"] == 2
        with pytest.raises(Forbidden, match="you may not subscribe"):
            stranger.backtest_filter({"exact": {"type": "t"}}, bus=name)
        assert client.remove_publisher(name, "urn:headrace:user:bob")["publishers"] == []
        with pytest.raises(NotFound):
            stranger.publish(event(), bus=name)
        with pytest.raises(NotFound, match="nobody"):
            client.add_subscriber(name, "urn:headrace:user:nobody")


def test_events_of_a_bus_run_what_is_subscribed_to_it_and_nothing_else(
    service: RunningService, desk: EventsDesk, client: Client, ada: str, name: str
) -> None:
    client.create_bus(name, subscribers=["urn:headrace:user:ada"])
    mine, theirs, everybodys = desk.notes(), desk.notes(), desk.notes()
    client.publish(event(type="kind.a", id="before"), bus=name)
    desk.subscribe("kind.a", mine, bus=name)
    desk.subscribe("kind.a", everybodys)
    reader = EventsDesk(service.http(ada), desk.directory, desk.function, desk.endpoint)
    reader.subscribe("kind.a", theirs, bus=name)

    for number in range(3):
        client.publish(event(type="kind.a", id=str(number)), bus=name)
    assert sorted(mine.wait(3)) == [["0"], ["1"], ["2"]]
    assert sorted(theirs.wait(3)) == [["0"], ["1"], ["2"]]

    # A consumer that somebody has removed is made again, and what is then matched twice runs once.
    service.bus(lambda connection: delete_consumer(connection, event_stream(name), matcher_consumer(name)))
    client.publish(event(type="kind.a", id="3"), bus=name)
    assert sorted(mine.wait(4)) == sorted(theirs.wait(4)) == [["0"], ["1"], ["2"], ["3"]]

    client.remove_subscriber(name, "urn:headrace:user:ada")
    client.publish(event(type="kind.a", id="after"), bus=name)
    mine.wait(5)
    client.publish(event(type="kind.a", id="d"))
    assert everybodys.wait(1) == [["d"]]
    assert len(theirs.runs) == 4


@pytest.mark.parametrize("mode", ["structured", "binary", "batch"])
def test_every_mode_is_published_to_a_bus_and_a_repetition_is_said_to_be_one(
    service: RunningService, client: Client, mode: str
) -> None:
    name = next(_names)
    client.create_bus(name)
    http, one = service.http(), event(data={"x": 1})

    def publish() -> httpx.Response:
        path = f"/api/v1/buses/{name}/events"
        if mode == "batch":
            return http.post(path, content=json.dumps([one]), headers=BATCH)
        if mode == "structured":
            return http.post(path, content=json.dumps(one), headers=CLOUDEVENT)
        headers = {f"ce-{key}": str(value) for key, value in one.items() if key != "data"}
        return http.post(path, json=one["data"], headers=headers)

    answers = [publish(), publish()]
    assert [answer.status_code for answer in answers] == [202, 202]
    said = [answer.json()["events"][0] if mode == "batch" else answer.json() for answer in answers]
    assert [(each["sequence"], each["duplicate"]) for each in said] == [(1, False), (1, True)]


def test_what_does_not_fit_its_types_schema_is_refused_or_marked_and_the_rest_of_it_stays(
    service: RunningService, client: Client, name: str
) -> None:
    wanted = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    with pytest.raises(RequestRefused) as bad:
        client.create_bus(name, schemas={"a/b": {"schema": {"type": "nonsense"}}})
    assert bad.value.errors[0].pointer.startswith("/schemas/a~1b/schema")
    client.create_bus(name, schemas={"strict": {"schema": wanted}, "lax": {"schema": wanted, "policy": "mark"}})

    with pytest.raises(RequestRefused, match="schema that the bus") as refused:
        client.publish(event(type="strict", data={"n": "one"}), bus=name)
    assert (refused.value.status, refused.value.service_code) == (422, "EventUnfit")
    assert [each.pointer for each in refused.value.errors] == ["/data/n"]
    with pytest.raises(RequestRefused) as refused:
        client.publish_batch([event(), event(type="strict", data=1), event(type="lax", data=1)], bus=name)
    assert [each.pointer for each in refused.value.errors] == ["/1/data"]
    assert client.get_bus(name)["events"] == 0

    good, odd = event(type="lax", data={"n": 1}), event(type="lax", data_base64="AAEC", extra="kept")
    said = client.publish_batch([good, odd, event(type="other", data=None)], bus=name)
    assert [each.get("problem", "")[:5] for each in said] == ["", "/data", ""]
    stored = service.http().get("/api/v1/events", params={"bus": name}).json()["events"]
    documents = {each["event"]["id"]: each["event"] for each in stored}
    assert documents[good["id"]] == good
    marked = dict(documents[odd["id"]])
    assert "needs data that is JSON" in marked.pop("schemaproblem")
    assert marked == odd

    client.change_bus(name, schemas={})
    assert "problem" not in client.publish(event(type="strict", data="anything"), bus=name)


def test_a_bus_keeps_as_much_as_its_retention_says(client: Client, service: RunningService, name: str) -> None:
    client.create_bus(name, retention={"max_bytes": 1 << 20})
    client.publish_batch([event(data="x" * 30_000) for _ in range(60)], bus=name)
    held = client.get_bus(name)
    assert held["bytes"] <= 1 << 20
    assert 0 < held["events"] < 60
    assert held["last_sequence"] == 60

    changed = client.change_bus(name, retention={"max_age_s": 3600})
    assert changed["retention"] == {"max_age_s": 3600.0, "max_bytes": 1 << 20}

    async def limits(connection: Connection) -> Any:
        return (await connection.api(f"STREAM.INFO.{event_stream(name)}"))["config"]

    assert service.bus(limits)["max_age"] == 3600 * 10**9


def test_what_hangs_on_a_bus_ends_with_it_and_its_name_stays_its_owners(
    service: RunningService, client: Client, desk: EventsDesk, ada: str, name: str
) -> None:
    client.create_bus(name)
    notes = desk.notes()
    subscription = desk.subscribe("t", notes, bus=name)
    hook = client.create_hook({"kind": "generic", "bus": name})
    schedule = client.create_schedule({"every_s": 3600, "bus": name})
    client.publish(event(id="1"), bus=name)
    assert notes.wait(1) == [["1"]]
    wait = {"request_id": name, "body": {"bus": name, "filter": {"exact": {"type": "never"}}}}
    waiting = service.http().post("/actions/events/wait/run", json=wait).json()["action_id"]

    client.delete_bus(name)
    ended = service.http().get(f"/actions/events/wait/{waiting}/status").json()
    assert (ended["status"], ended["details"]["code"]) == ("FAILED", "BusDeleted")
    for path in (f"subscriptions/{subscription}", f"hooks/{hook['hook_id']}", f"schedules/{schedule['schedule_id']}"):
        assert service.http().get(f"/api/v1/{path}").status_code == 404
    with pytest.raises(NotFound):
        client.publish(event(), bus=name)
    with Client(service.url, ada) as other, pytest.raises(RequestRefused, match="choose another name"):
        other.create_bus(name)

    # Its sequences go on where they were, so what refers to an event of the first one meets none of the second.
    client.create_bus(name)
    again = desk.subscribe("t", notes, bus=name)
    assert client.publish(event(id="2"), bus=name)["sequence"] == 2
    assert notes.wait(2) == [["1"], ["2"]]
    desk.unsubscribe(again)


def test_webhooks_schedules_and_actions_publish_to_a_bus_as_long_as_their_owner_may(
    service: RunningService, client: Client, ada: str, name: str
) -> None:
    client.create_bus(name, publishers=["urn:headrace:group:lab"])
    secret = "0123456789abcdef"  # of a test
    with Client(service.url, ada) as publisher:
        hook = publisher.create_hook({"kind": "cloudevents", "bus": name, "secret": secret})
        with pytest.raises(NotFound):
            publisher.create_hook({"kind": "generic", "bus": "no-such-bus"})
        publisher.create_schedule({"every_s": 1, "bus": name, "event": {"type": "tick"}})

    def announce() -> int:
        headers = {**CLOUDEVENT, "Authorization": f"Bearer {secret}"}
        return httpx.post(
            hook["url"], content=json.dumps(event()), headers=headers, trust_env=False, verify=NO_TLS, timeout=20
        ).status_code

    assert announce() == 202
    eventually(lambda: client.get_bus(name)["events"] >= 2, 10, "a tick")
    body = {"bus": name, "type": "t", "source": "/flow"}
    run = service.http(ada).post("/actions/events/publish/run", json={"request_id": "1", "body": body})
    assert (run.status_code, run.json()["status"]) == (202, "SUCCEEDED")

    client.remove_publisher(name, "urn:headrace:group:lab")
    assert announce() == 403
    refused = service.http(ada).post("/actions/events/publish/run", json={"request_id": "2", "body": body})
    assert refused.status_code == 400


def test_one_bus_is_everybodys_and_cannot_be_changed(client: Client) -> None:
    assert client.list_buses()[0]["owner"] is None
    for change in (lambda: client.change_bus("default", description="x"), lambda: client.delete_bus("default")):
        with pytest.raises(Forbidden, match="everybody's"):
            change()
    with pytest.raises(RequestRefused, match="everybody's"):
        client.create_bus("default")
    with pytest.raises(RequestRefused, match="name"):
        client.create_bus("Not A Name")


def test_what_a_crash_leaves_of_a_bus_is_mended(service: RunningService, client: Client, desk: EventsDesk) -> None:
    made, removed = next(_names), next(_names)
    for each in (made, removed):
        client.create_bus(each)
    client.publish(event(), bus=removed)
    subscription = desk.subscribe("t", desk.notes(), bus=removed)

    async def crash_and_mend(connection: Connection) -> set[str]:
        tables = Tables.on(connection)
        # Made, but for its stream; removed, but for all that hangs on it.
        await connection.api(f"STREAM.DELETE.{event_stream(made)}")
        await tables.buses.change(removed, lambda record: msgspec.structs.replace(record, removed_at=1.0))
        for _ in range(2):
            await mend_buses(connection, tables, replicas=1)
        return set(await stream_names(connection))

    streams = service.bus(crash_and_mend)
    assert event_stream(made) in streams
    assert event_stream(removed) not in streams
    assert service.http().get(f"/api/v1/subscriptions/{subscription}").status_code == 404
    assert client.publish(event(), bus=made)["sequence"] == 1
    assert client.create_bus(removed)["may_publish"]
    assert client.publish(event(), bus=removed)["sequence"] == 2
