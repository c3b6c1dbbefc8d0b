"""Events that come together before a function runs, with several dispatchers at work."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import Any

import msgspec
import pytest
from events_desk import EventsDesk
from service import RunningService

from headrace.bus.errors import BusUnavailable
from headrace.bus.eventing.dispatcher import Dispatcher
from headrace.bus.eventing.events import CloudEvent, Published
from headrace.bus.eventing.joining import Joining
from headrace.bus.eventing.joins import Join
from headrace.bus.eventing.publishing import Publishing
from headrace.bus.eventing.subscriptions import CompiledSubscription, SubscriptionRecord
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.nats.connection import Connection
from headrace.bus.store.tables import Tables


def join(kind: str, within_s: float = 60.0) -> dict[str, Any]:
    of = {name: {"exact": {"type": f"{kind}.{name}"}} for name in ("image", "header")}
    return {"of": of, "key": "{{ event.subject }}", "within_s": within_s}


def test_events_with_one_key_are_delivered_as_one_and_those_alone_are_told_of(desk: EventsDesk, kind: str) -> None:
    together, alone = desk.notes(), desk.notes()
    mine = {"prefix": {"type": kind}}
    ids = ("{{ event.data.key }}", "{{ event.data.events.image.id }}", "{{ event.data.events.header.id }}")
    retry = {"first_delay_s": 0.1}
    subscription = desk.subscribe(kind, together, *ids, filter=mine, join=join(kind), kwargs={"fail": 1}, retry=retry)
    short = desk.subscribe(kind, desk.notes(), filter=mine, join=join(kind, within_s=0.2))
    expired = {"exact": {"type": "org.headrace.join.expired", "source": f"/headrace/subscriptions/{short}"}}
    desk.subscribe(kind, alone, "{{ event.data.key }}", "{{ event.data.events }}", filter=expired)
    desk.publish(f"{kind}.image", "i1", subject="one", data={"n": 1}, correlationid="story")
    desk.publish(f"{kind}.header", "h2", subject="two")
    desk.publish(f"{kind}.other", "o1", subject="one")
    # The short window passes for both of them.
    told = {
        key: {name: [each["id"] for each in some] for name, some in events.items()} for key, events in alone.wait(2)
    }
    assert told == {"one": {"image": ["i1"]}, "two": {"header": ["h2"]}}
    desk.publish(f"{kind}.header", "h1", subject="one")
    # It failed once, and what it was made of was still there.
    assert together.wait(2) == [["one", "i1", "h1"], ["one", "i1", "h1"]]
    desk.publish(f"{kind}.image", "i2", subject="two")
    assert together.wait(3)[2] == ["two", "i2", "h2"]
    assert desk.dead_letters(subscription) == []
    (event,) = [
        each["event"]
        for each in desk.http.get("/api/v1/events", params={"type": "org.headrace.join.complete"}).json()["events"]
        if each["event"]["data"]["key"] == "one"
    ]
    assert (event["correlationid"], event["data"]["subscription_id"]) == ("story", subscription)
    # What has no key is no part of anything.
    desk.publish(f"{kind}.image", "i3")
    assert desk.dead_letter(subscription)["code"] == "InputFailed"


def test_every_set_is_delivered_once_whichever_dispatchers_take_its_parts(
    service: RunningService, desk: EventsDesk, kind: str
) -> None:
    notes, count = desk.notes(), 40
    ids = ("{{ event.data.key }}", "{{ event.data.events.image.id }}", "{{ event.data.events.header.id }}")
    desk.subscribe(kind, notes, *ids, filter={"prefix": {"type": kind}}, join=join(kind))
    events = [(name, n) for n in range(count) for name in ("image", "header")]

    async def beside(connection: Connection) -> None:
        keys = ServiceKeys.load(service.keys_dir).key_ring()
        others = [Dispatcher(connection, keys, Tables.on(connection)) for _ in range(2)]
        tasks = [asyncio.ensure_future(each.run()) for each in others]
        batch = [
            {"specversion": "1.0", "id": f"{name}{n}", "source": "/s", "type": f"{kind}.{name}", "subject": str(n)}
            for name, n in events
        ]
        await asyncio.to_thread(_publish, desk, batch)
        await asyncio.to_thread(notes.wait, count, 20.0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    service.bus(beside, within_s=40)
    assert sorted(notes.args) == sorted([str(n), f"image{n}", f"header{n}"] for n in range(count))


def _publish(desk: EventsDesk, batch: list[dict[str, Any]]) -> None:
    for start in range(0, len(batch), 7):
        answer = desk.http.post(
            "/api/v1/events",
            json=batch[start : start + 7],
            headers={"Content-Type": "application/cloudevents-batch+json"},
        )
        assert answer.status_code == 202, answer.text


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"of": {"a": {"exact": {"type": "x"}}}}, "/join/of"),
        ({"of": {"a": {"exact": {"type": "x"}}, "b": {"exact": {"Type": "x"}}}}, "/join/of/b/exact/Type"),
        ({"key": "{{ event. }}"}, "/join/key"),
        ({"within_s": 0}, "/join/within_s"),
    ],
)
def test_a_join_that_cannot_be_is_refused(desk: EventsDesk, kind: str, change: dict[str, Any], pointer: str) -> None:
    body = {"filter": {"exact": {"type": "x"}}, "function_id": desk.function, "endpoint_id": desk.endpoint}
    answer = desk.http.post("/api/v1/subscriptions", json={**body, "join": {**join(kind), **change}})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


def test_a_set_whose_dispatcher_died_before_it_told_of_it_is_told_once_by_the_next_one(
    service: RunningService, desk: EventsDesk, kind: str
) -> None:
    numbers = {name: desk.publish(f"{kind}.{name}", name, subject="s")["sequence"] for name in ("image", "header")}
    record = SubscriptionRecord(
        subscription_id=uuid.uuid4(),
        name="joined",
        owner="urn:headrace:user:admin",
        filter={"prefix": {"type": kind}},
        function_id=uuid.uuid4(),
        endpoint_id=uuid.uuid4(),
        created_at=0.0,
        join=msgspec.convert(join(kind), Join),
    )
    subscription = CompiledSubscription.of(record)

    async def work(connection: Connection) -> int:
        tables = Tables.on(connection)
        publishing = Publishing(connection, tables.buses, tables.users)
        dying = Joining(connection, tables.joins, tables.catch_ups, _Dying(connection, tables.buses, tables.users))
        next_one = Joining(connection, tables.joins, tables.catch_ups, publishing)
        assert subscription.join is not None
        for joining in (dying, next_one, next_one):
            for name, sequence in numbers.items():
                (message,), _ = await connection.read_many("EVENTS", {"seq": sequence, "batch": 1})
                event = CloudEvent.of_stored(message.data)
                with contextlib.suppress(BusUnavailable):
                    await joining.take(subscription, subscription.join, event, sequence, message.stored_at)
                assert event.id == name
        left = await tables.joins.list(f"{record.subscription_id.hex}.")
        assert [each.value.closed for each in left] == [()]
        return len(left)

    assert service.bus(work) == 1
    found = desk.http.get("/api/v1/events", params={"type": "org.headrace.join.complete"}).json()["events"]
    ids = [each["event"]["id"] for each in found if each["event"]["source"] == record.joined_source]
    assert len(ids) == 1


class _Dying(Publishing):
    """A dispatcher ends where it would tell."""

    async def publish(self, event: CloudEvent, **_: Any) -> Published:
        raise BusUnavailable("killed")
