"""Events that a subscription publishes about what became of its deliveries, and chains that come back."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
from events_desk import EventsDesk
from service import RunningService
from waiting import eventually

from headrace.bus.data.values import encode
from headrace.bus.eventing.announcements import Announcer, announced
from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.publishing import Publishing
from headrace.bus.eventing.subscriptions import Announce, Announcement, SubscriptionRecord
from headrace.bus.names import event_subject
from headrace.bus.nats.connection import Connection
from headrace.bus.store.tables import Tables
from headrace.bus.tasks.bundles import TaskResult


def stored(desk: EventsDesk, kind: str, count: int = 1) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]]:
        events = desk.http.get("/api/v1/events", params={"type": kind}).json()["events"]
        return [each["event"] for each in events]

    eventually(lambda: len(found()) >= count, message=f"{count} events of the type {kind}")
    return found()


def test_successes_and_failures_are_events_that_lead_on(desk: EventsDesk, kind: str) -> None:
    good, bad, next_one = desk.notes(), desk.notes(), desk.notes()
    announce = {"success": {"type": f"{kind}.done"}, "failure": {"type": f"{kind}.failed", "source": "/mine"}}
    works = desk.subscribe(kind, good, announce=announce)
    fails = desk.subscribe(kind, bad, announce=announce, kwargs={"fail": 9}, retry={"max_attempts": 1})
    # The next one of the chain gets the value.
    desk.subscribe(f"{kind}.done", next_one, "{{ event.data.result }}", "{{ event.causationid }}")
    desk.publish(kind, "1", subject="s")

    assert next_one.wait(1) == [[1, "1"]]
    (done,) = stored(desk, f"{kind}.done")
    assert (done["source"], done["subject"]) == (f"/headrace/subscriptions/{works}", "s")
    assert (done["causationid"], done["correlationid"]) == ("1", "1")
    assert done["headracechain"] == uuid.UUID(works).hex
    assert (done["data"]["result"], done["data"]["attempts"], done["data"]["event"]["id"]) == (1, 1, "1")
    task = desk.http.get(f"/api/v1/tasks/{done['data']['task_id']}").json()
    assert task["result"] == 1

    (failed,) = stored(desk, f"{kind}.failed")
    letter = desk.dead_letter(fails)
    assert (failed["source"], failed["data"]["code"]) == ("/mine", "AttemptsExhausted")
    assert failed["data"]["dead_letter_id"] == letter["dead_letter_id"] == failed["id"]
    assert "run 1 fails" in failed["data"]["reason"]


def test_deliveries_that_wait_in_a_queue_of_their_own_are_announced_as_well(desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    announce = {"success": {"type": f"{kind}.done"}, "failure": {"type": f"{kind}.failed"}}
    more = {"announce": announce, "retry": {"max_attempts": 1}, "flow": {"concurrency": 1}}
    desk.subscribe(kind, notes, kwargs={"fail": 1}, **more)
    desk.publish(kind, "1")
    notes.wait(1)
    desk.publish(kind, "2")
    (failed,), (done,) = stored(desk, f"{kind}.failed"), stored(desk, f"{kind}.done")
    assert (failed["causationid"], failed["data"]["code"]) == ("1", "AttemptsExhausted")
    assert (done["causationid"], done["data"]["result"]) == ("2", 2)


def test_a_circle_of_subscriptions_ends_in_a_dead_letter_that_says_so(desk: EventsDesk, kind: str) -> None:
    there, back = desk.notes(), desk.notes()
    both = {"success": {"type": f"{kind}.back"}, "failure": {"type": kind}}
    first = desk.subscribe(kind, there, announce=both)
    second = desk.subscribe(f"{kind}.back", back, announce={"success": {"type": kind}})
    desk.publish(kind, "1")
    letter = desk.dead_letter(first)
    assert letter["code"] == "LoopDetected"
    assert f"{first} → {second} → {first}" in letter["reason"]
    assert letter["event"]["correlationid"] == "1"
    assert (len(there.args), len(back.args)) == (1, 1)
    # Nothing was announced of it: that would go on and on.
    assert len(stored(desk, kind)) == 2
    # Who wants it nevertheless takes it from the dead letters.
    desk.http.post("/api/v1/dead-letters/redrive", json={"subscription_id": first})
    there.wait(2)


def test_an_announcement_is_one_event_also_long_after_the_server_has_forgotten_its_id(
    service: RunningService, desk: EventsDesk, kind: str
) -> None:
    record = SubscriptionRecord(
        subscription_id=uuid.uuid4(),
        name="told",
        owner="urn:headrace:user:admin",
        filter={"exact": {"type": kind}},
        function_id=uuid.uuid4(),
        endpoint_id=uuid.uuid4(),
        created_at=0.0,
        announce=Announce(success=Announcement(type=f"{kind}.done")),
    )
    result = TaskResult(0, "succeeded", *encode({"n": 1}))
    # Long ago: so the server's memory of ids does not count, and the bus is asked.
    long_ago = time.time() - 3600

    async def tell(connection: Connection) -> None:
        tables = Tables.on(connection)
        announcer = Announcer(connection, Publishing(connection, tables.buses, tables.users))
        assert record.announce.success is not None
        for n in range(3):
            delivery = Delivery(record.subscription_id, "default", n + 1, "/s", str(n))
            name = delivery.delivery_id(record.endpoint_id)
            event = announced(record, record.announce.success, name, delivery, None, {})
            # Without a message id: as when the server has forgotten it.
            await connection.store(event_subject("default", event.type), event.encode())
            for _ in range(2):
                await announcer.success(
                    record, delivery, None, result, place=record.endpoint_id, task_id=uuid.uuid4(), stored_at=long_ago
                )

    service.bus(tell)
    assert len(stored(desk, f"{kind}.done", 3)) == 3


@pytest.mark.parametrize(
    ("announce", "pointer"),
    [
        ({"success": {"type": "a\x07b"}}, "/announce/success/type"),
        ({"failure": {"type": "t", "source": "a b"}}, "/announce/failure/source"),
        ({"success": {}}, "/announce/success"),
    ],
)
def test_what_would_be_no_event_is_refused(desk: EventsDesk, announce: dict[str, Any], pointer: str) -> None:
    body = {"filter": {"exact": {"type": "x"}}, "function_id": desk.function, "endpoint_id": desk.endpoint}
    answer = desk.http.post("/api/v1/subscriptions", json={**body, "announce": announce})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
    elsewhere = {"success": {"type": "t", "bus": "of-nobody"}}
    answer = desk.http.post("/api/v1/subscriptions", json={**body, "announce": elsewhere})
    assert answer.status_code == 404
