"""A dispatcher that dies, repeats itself, or runs twice: nothing is lost, and every attempt has one effect."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from events_desk import NOTES, EventsDesk
from running_pool import running_pool
from service import RunningService, running_service
from waiting import eventually

from headrace.bus.errors import StreamMissing
from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.dispatcher import DUE_CONSUMER, RESULTS_CONSUMER, Dispatcher
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.names import matcher_consumer
from headrace.bus.nats.connection import Connection
from headrace.bus.store.streams import StreamSettings, delete_consumer, purge
from headrace.bus.store.tables import Tables

MATCHER = matcher_consumer("default")


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service"), dispatcher=False) as running:
        yield running


@pytest.fixture
def desk(service: RunningService, tmp_path: Path) -> Iterator[EventsDesk]:
    with running_pool(service, tmp_path / "pool") as pool:
        yield EventsDesk(service.http(), tmp_path, service.add_function(NOTES, "note"), pool.endpoint_id)


@contextlib.contextmanager
def dispatcher(service: RunningService, counts: Counter[str] | None = None, **settings: Any) -> Iterator[None]:
    """A dispatcher with a connection of its own, until the end of the block."""
    counted = Counter[str]() if counts is None else counts

    def count(what: str) -> None:
        counted[what] += 1

    async def work() -> None:
        keys = ServiceKeys.load(service.keys_dir)
        async with Connection([service.nats.url], keys.core, name="dispatcher") as connection:
            await Dispatcher(connection, keys.key_ring(), Tables.on(connection), count=count, **settings).run()

    future = asyncio.run_coroutine_threadsafe(work(), service.loop.loop)
    try:
        yield
    finally:
        future.cancel()
        with contextlib.suppress(concurrent.futures.CancelledError):
            future.result(60)


def all_done(service: RunningService) -> bool:
    """Whether no consumer of the dispatchers holds anything that is not acked, or has anything to come."""

    async def look(connection: Connection) -> bool:
        for stream, consumer in (("EVENTS", MATCHER), ("RESULTS", RESULTS_CONSUMER), ("DELIVERIES", DUE_CONSUMER)):
            try:
                info = await connection.api(f"CONSUMER.INFO.{stream}.{consumer}")
            except StreamMissing:
                return False
            if info["num_pending"] or info["num_ack_pending"]:
                return False
        return True

    return bool(service.bus(look))


def forget_all_acks(service: RunningService) -> None:
    """Everything will be delivered to the dispatchers once more."""

    async def work(connection: Connection) -> None:
        await delete_consumer(connection, "EVENTS", MATCHER)
        await delete_consumer(connection, "RESULTS", RESULTS_CONSUMER)

    service.bus(work)


def test_events_that_came_while_no_dispatcher_ran_are_delivered(service: RunningService, desk: EventsDesk) -> None:
    notes = desk.notes()
    desk.publish("kind", "before")
    desk.subscribe("kind", notes)
    for n in range(50):
        desk.publish("kind", str(n))
    with dispatcher(service):
        assert sorted(notes.wait(50)) == sorted([str(n)] for n in range(50))


def test_a_dispatcher_that_repeats_everything_has_no_second_effect(service: RunningService, desk: EventsDesk) -> None:
    good, bad = desk.notes(), desk.notes()
    told = {"success": {"type": "told"}, "failure": {"type": "told"}}
    desk.subscribe("good", good, announce=told)
    retry = {"max_attempts": 2, "first_delay_s": 0.05}
    failing = desk.subscribe("bad", bad, kwargs={"fail": 99}, retry=retry, announce=told)

    def announced() -> int:
        return len(desk.http.get("/api/v1/events", params={"type": "told", "limit": 100}).json()["events"])

    with dispatcher(service):
        for n in range(20):
            desk.publish("good", str(n))
        desk.publish("bad", "1")
        good.wait(20)
        desk.dead_letter(failing)
        eventually(lambda: all_done(service))
    forget_all_acks(service)
    with dispatcher(service):
        eventually(lambda: all_done(service), 10)
        desk.publish("good", "last")
        good.wait(21)
        eventually(lambda: announced() >= 22, 10, "the last one is announced")
        eventually(lambda: all_done(service), 10)
    assert sorted(good.args) == sorted([[str(n)] for n in range(20)] + [["last"]])
    assert bad.args == [["1"], ["1"]]
    assert len(desk.dead_letters(failing)) == 1
    # Twenty good ones, one that failed, and the last one: each was announced once.
    assert announced() == 22


def test_dispatchers_that_come_and_go_lose_nothing_and_repeat_nothing(
    service: RunningService, desk: EventsDesk
) -> None:
    notes, flaky = desk.notes(), desk.notes()
    desk.subscribe("kind", notes)
    subscription = desk.subscribe("flaky", flaky, kwargs={"fail": 1}, retry={"first_delay_s": 0.05})
    for round_ in range(6):
        with dispatcher(service):
            for n in range(20):
                desk.publish("kind", f"{round_}.{n}")
            if round_ == 0:
                desk.publish("flaky", "1")
    with dispatcher(service):
        notes.wait(120)
        flaky.wait(2)
        eventually(lambda: all_done(service), 10)
    assert sorted(notes.args) == sorted([f"{round_}.{n}"] for round_ in range(6) for n in range(20))
    assert flaky.args == [["1"], ["1"]]
    assert desk.dead_letters(subscription) == []


def test_a_delivery_waits_in_the_queue_of_an_endpoint_that_is_away_and_for_room_in_a_full_one(tmp_path: Path) -> None:
    small = StreamSettings(tasks_bytes=60_000)
    with (
        running_service(tmp_path / "service", dispatcher=False, streams=small) as service,
        running_pool(service, tmp_path / "pool", started=False) as pool,
    ):
        desk = EventsDesk(service.http(), tmp_path, service.add_function(NOTES, "note"), pool.endpoint_id)
        notes, counts = desk.notes(), Counter[str]()
        desk.subscribe("large", notes, "{{ event.id }}", "{{ event.data }}")
        with dispatcher(service, counts, full_wait_s=0.2):
            for n in range(12):
                desk.publish("large", str(n), data="x" * 10_000)
            eventually(lambda: counts["sent"] >= 3 and counts["postponed"] >= 20, 10, "the queue is full")
            assert notes.runs == []
            pool.start()
            notes.wait(12, 20)
            eventually(lambda: all_done(service), 10)
        assert sorted(int(args[0]) for args in notes.args) == list(range(12))
        assert counts["given_up"] == 0


def test_deliveries_wait_for_room_where_their_owner_may_have_one_bundle_queued(
    service: RunningService, tmp_path: Path
) -> None:
    with running_pool(service, tmp_path / "pool", workers=1, started=False) as pool:
        limits = {"queue_limits": {"bundles_per_principal": 1}}
        assert service.http().patch(f"/api/v1/endpoints/{pool.endpoint_id}", json=limits).is_success
        desk = EventsDesk(service.http(), tmp_path, service.add_function(NOTES, "note"), pool.endpoint_id)
        notes, counts = desk.notes(), Counter[str]()
        desk.subscribe("kind", notes)

        def queued() -> int:
            return int(service.http().get(f"/api/v1/endpoints/{pool.endpoint_id}/queue").json()["used"])

        with dispatcher(service, counts, full_wait_s=0.2):
            desk.publish("kind", "0")
            eventually(lambda: queued() == 1, 10, "the first is queued")
            for n in (1, 2):
                desk.publish("kind", str(n))
            eventually(lambda: counts["postponed"] >= 4, 10, "the others wait, again and again")
            assert queued() == 1
            pool.start()

            # Each is delivered in the end.
            assert sorted(notes.wait(3, 18)) == [["0"], ["1"], ["2"]]


def test_a_failure_after_the_bus_has_forgotten_the_event_is_told(service: RunningService, tmp_path: Path) -> None:
    with running_pool(service, tmp_path / "pool", started=False) as pool:
        desk = EventsDesk(service.http(), tmp_path, service.add_function(NOTES, "note"), pool.endpoint_id)
        counts = Counter[str]()
        subscription = desk.subscribe("kind", desk.notes(), kwargs={"fail": 99})
        with dispatcher(service, counts):
            desk.publish("kind", "1")
            eventually(lambda: counts["sent"] >= 1)
            service.bus(lambda connection: purge(connection, "EVENTS", "event.>"))
            pool.start()
            letter = desk.dead_letter(subscription)
        assert (letter["code"], letter["event"], letter["event_id"]) == ("EventExpired", None, "1")
        assert letter["attempts"][0]["message"] == "run 1 fails"


def test_a_cancelled_delivery_is_not_tried_again(service: RunningService, tmp_path: Path) -> None:
    with running_pool(service, tmp_path / "pool", started=False) as pool:
        desk = EventsDesk(service.http(), tmp_path, service.add_function(NOTES, "note"), pool.endpoint_id)
        notes, counts = desk.notes(), Counter[str]()
        subscription = desk.subscribe("kind", notes)
        with dispatcher(service, counts):
            sequence = desk.publish("kind", "1")["sequence"]
            eventually(lambda: counts["sent"] >= 1)
            delivery = Delivery(uuid.UUID(subscription), "default", sequence, "/test/kind", "1")
            task_id = delivery.task_id(uuid.UUID(pool.endpoint_id))
            assert desk.http.post(f"/api/v1/tasks/{task_id}/cancel", json={}).is_success
            pool.start()
            letter = desk.dead_letter(subscription)
        assert letter["code"] == "Cancelled"
        assert [(each["task_id"], each["state"]) for each in letter["attempts"]] == [(str(task_id), "cancelled")]
        assert notes.runs == []


def test_a_subscription_whose_events_were_taken_before_anybody_heard_of_it_gets_them(
    service: RunningService, desk: EventsDesk
) -> None:
    # A dispatcher took and acked the event before it heard of the subscription, and died right then.
    notes = desk.notes()
    other = desk.notes()
    desk.subscribe("other", other)
    with dispatcher(service):
        desk.publish("other", "0")
        other.wait(1)
        desk.publish("kind", "missed")
        desk.publish("other", "1")
        other.wait(2)
        eventually(lambda: all_done(service))
    template = desk.http.get(f"/api/v1/subscriptions/{desk.subscribe('kind', notes)}").json()
    record = SubscriptionRecord(
        subscription_id=uuid.uuid4(),
        name="late",
        owner=template["owner"],
        filter=template["filter"],
        function_id=uuid.UUID(desk.function),
        endpoint_id=uuid.UUID(desk.endpoint),
        created_at=time.time(),
        input=template["input"],
        after_sequence=1,
    )
    service.bus(lambda connection: Tables.on(connection).subscriptions.create(record.subscription_id.hex, record))
    with dispatcher(service):
        assert notes.wait(1) == [["missed"]]


def test_the_subscriptions_of_a_user_who_was_removed_run_nothing(service: RunningService, desk: EventsDesk) -> None:
    http = service.http(service.add_user("eve"))
    service.http().patch(f"/api/v1/endpoints/{desk.endpoint}", json={"public": True})
    answer = http.post("/api/v1/functions", json={"name": "note", "source": NOTES, "python_version": "3.11"})
    eve = EventsDesk(http, desk.directory / "eve", answer.json()["function_id"], desk.endpoint)
    eve.directory.mkdir()
    notes, counts = eve.notes(), Counter[str]()
    eve.subscribe("kind", notes)
    with dispatcher(service, counts):
        desk.publish("kind", "1")
        notes.wait(1)
        assert service.http().delete("/api/v1/users/eve").status_code == 204
        others = desk.notes()
        desk.subscribe("kind", others)
        desk.publish("kind", "2")
        assert others.wait(1) == [["2"]]
        eventually(lambda: all_done(service))
    assert notes.args == [["1"]]


def test_two_dispatchers_share_the_work(service: RunningService, desk: EventsDesk) -> None:
    with dispatcher(service), dispatcher(service):
        notes = desk.notes()
        desk.subscribe("kind", notes)
        for n in range(100):
            desk.publish("kind", str(n))
        notes.wait(100)
        eventually(lambda: all_done(service), 10)
    assert sorted(notes.args) == sorted([str(n)] for n in range(100))


def test_a_lost_bus_is_waited_for(service: RunningService, desk: EventsDesk) -> None:
    notes, failing = desk.notes(), desk.notes()
    with dispatcher(service):
        desk.subscribe("kind", notes)
        bad = desk.subscribe("bad", failing, kwargs={"fail": 1}, retry={"first_delay_s": 1.0})
        desk.publish("kind", "1")
        desk.publish("bad", "1")
        notes.wait(1)
        failing.wait(1)
        service.nats.kill()
        service.loop.run(service.nats.wait())
        service.loop.run(service.nats.start())
        eventually(lambda: desk.http.get("/readyz").status_code == 200, 10)
        desk.publish("kind", "2")
        assert sorted(notes.wait(2, 20)) == [["1"], ["2"]]
        # Its next attempt waited in the store while the server was down.
        assert failing.wait(2, 20) == [["1"], ["1"]]
        eventually(lambda: all_done(service), 20)
    assert desk.dead_letters(bad) == []
