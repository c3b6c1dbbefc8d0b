"""Events of the past, delivered once more: marked, in order, beside what comes now; paused, and gone on with."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from events_desk import NOTES, EventsDesk
from running_pool import running_pool
from service import RunningService, running_service
from waiting import eventually, eventually_async

from headrace.bus.eventing.deliveries import Delivery
from headrace.bus.eventing.dispatcher import Dispatcher
from headrace.bus.eventing.leases import holder_of
from headrace.bus.eventing.replays.models import ReplayRecord
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.names import event_stream
from headrace.bus.nats import pages
from headrace.bus.nats.connection import Connection
from headrace.bus.store.records import Record, Records, Watch
from headrace.bus.store.tables import Tables
from headrace.bus.tasks.task_views import queued_tasks
from headrace.cli.trace_view import tree
from headrace.sdk import Client, NotFound, RequestRefused


def publish(desk: EventsDesk, kind: str, count: int) -> list[int]:
    """The sequences of so many events, with the ids "0", "1" …"""
    return [int(desk.publish(kind, str(n), data={"n": n})["sequence"]) for n in range(count)]


def ended(client: Client, replay: dict[str, Any], within_s: float = 10.0) -> dict[str, Any]:
    """A replay, once it is over."""

    def look() -> dict[str, Any] | None:
        found = client.get_replay(replay["replay_id"])
        return found if found["state"] in ("finished", "failed", "cancelled") else None

    found = eventually(look, within_s, "the replay ends")
    assert found is not None
    return found


MARKED = ("{{ event.id }}", "{{ event.replayid | default('live') }}")


def test_a_subscription_gets_events_once_more_marked_and_in_order_and_goes_on_as_it_was(
    desk: EventsDesk, client: Client, kind: str
) -> None:
    notes = desk.notes()
    sequences = publish(desk, kind, 3)
    subscription = desk.subscribe(kind, notes, *MARKED)
    desk.publish(kind, "live")
    notes.wait(1)

    first = client.create_replay(subscription, from_sequence=sequences[0], per_second=100)

    assert (first["to_sequence"] > sequences[-1], first["state"]) == (True, "running")
    done = ended(client, first)
    assert (done["state"], done["sent"], done["left"], done["missing"]) == ("finished", 4, 0, 0)
    mark = first["replay_id"]
    assert sorted(notes.wait(5)) == sorted([["live", "live"], *([n, mark] for n in ("0", "1", "2", "live"))])

    # Again is again; and only what is asked for.
    second = client.create_replay(
        subscription,
        from_sequence=sequences[0],
        to_sequence=sequences[-1],
        wanted={"pattern": {"data": {"n": [{"numeric": [">", 0]}]}}},
    )
    assert ended(client, second)["sent"] == 2
    assert sorted(notes.wait(7)[5:]) == [[n, second["replay_id"]] for n in ("1", "2")]
    desk.publish(kind, "after")
    assert notes.wait(8)[7:] == [["after", "live"]]
    assert [each["replay_id"] for each in client.list_replays()[:2]] == [second["replay_id"], mark]

    traced = client.trace_event(sequences[1])["subscriptions"][0]["deliveries"]
    assert {(each["replay_id"], each["state"]) for each in traced} == {
        (mark, "succeeded"),
        (second["replay_id"], "succeeded"),
    }


def test_a_target_of_its_own_has_retries_dead_letters_and_redrives_that_say_it_was_a_replay(
    desk: EventsDesk, client: Client, kind: str
) -> None:
    notes = desk.notes()
    (sequence,) = publish(desk, kind, 1)
    replay = client.create_replay(
        function_id=desk.function,
        endpoint_id=desk.endpoint,
        input={"args": [str(notes.path), *MARKED], "kwargs": {"fail": 2}},
        retry={"max_attempts": 2, "first_delay_s": 0.05},
        from_sequence=sequence,
        to_sequence=sequence,
        name="once more",
    )

    letter = desk.dead_letter(replay["replay_id"])

    assert (letter["replay_id"], letter["subscription_name"]) == (replay["replay_id"], "once more")
    assert "replayid" not in letter["event"]
    assert client.redrive_dead_letters(dead_letter_ids=[letter["dead_letter_id"]])["redriven"] == 1
    assert notes.wait(3) == [["0", replay["replay_id"]]] * 3
    assert ended(client, replay)["sent"] == 1

    def shown() -> str | None:
        text = "\n".join(tree(client.trace_event(sequence)))
        return text if f"replay {replay['replay_id']}: succeeded" in text else None

    text = eventually(shown, 5, "the trace shows the end")
    assert text is not None
    assert "once more" in text
    assert "attempt 3: succeeded" in text


def test_a_replay_rests_goes_on_where_it_was_and_ends_when_it_is_told_to(
    desk: EventsDesk, client: Client, kind: str
) -> None:
    notes = desk.notes()
    sequences = publish(desk, kind, 30)
    subscription = desk.subscribe(kind, notes)
    scope: dict[str, Any] = {"from_sequence": sequences[0], "to_sequence": sequences[-1]}
    replay = client.create_replay(subscription, per_second=0.01, **scope)
    notes.wait(1)

    paused = client.pause_replay(replay["replay_id"])

    assert paused["state"] == "paused"
    # What was sent before the pause is counted behind it.
    eventually(lambda: client.get_replay(replay["replay_id"])["sent"] == 1, message="the one delivery is counted")
    client.change_replay(replay["replay_id"], state="running", per_second=1000)
    assert ended(client, replay)["sent"] == 30
    assert sorted(notes.wait(30)) == sorted([str(n)] for n in range(30))
    with pytest.raises(RequestRefused):
        client.pause_replay(replay["replay_id"])

    other = client.create_replay(subscription, per_second=0.01, **scope)
    notes.wait(31)
    assert client.cancel_replay(other["replay_id"])["state"] == "cancelled"
    with pytest.raises(RequestRefused):
        client.resume_replay(other["replay_id"])
    eventually(lambda: client.get_replay(other["replay_id"])["sent"] == 1, message="what was sent is counted")
    assert len(notes.args) == 31


def test_deliveries_of_a_replay_are_stored_in_the_order_of_the_bus(
    service: RunningService, desk: EventsDesk, client: Client, kind: str
) -> None:
    away, _ = service.add_endpoint(f"away-{kind}")
    client.publish_batch({"type": kind, "source": "/s", "id": str(n)} for n in range(200))
    last = client.list_events(event_type=kind, limit=1)[0]["sequence"]
    replay = client.create_replay(
        function_id=desk.function, endpoint_id=away, from_sequence=last - 199, to_sequence=last, per_second=10_000
    )
    assert ended(client, replay)["sent"] == 200

    async def order(connection: Connection) -> list[int]:
        subject = f"task.{uuid.UUID(away).hex}.>"
        queued = [each async for page in pages.messages(connection, "TASKS", subject, batch=200) for each in page]
        keys = ServiceKeys.load(service.keys_dir).key_ring()
        return [Delivery.decode(view.origin).sequence for view in queued_tasks(keys, queued).values()]

    assert service.bus(order) == list(range(last - 199, last + 1))


def test_a_replay_goes_through_the_flow_of_its_subscription_and_waits_while_that_rests(
    desk: EventsDesk, client: Client, kind: str
) -> None:
    notes = desk.notes()
    sequences = publish(desk, kind, 5)
    input_ = {"args": [str(notes.path), "{{ events | map(attribute='id') | list }}", "{{ events[0].replayid }}"]}
    flow = {"batch": {"size": 5, "window_s": 20}}
    subscription = desk.subscribe(kind, notes, input=input_, flow=flow)
    path = f"/api/v1/subscriptions/{subscription}"
    assert desk.http.patch(path, json={"paused": True}).status_code == 200

    replay = client.create_replay(subscription, from_sequence=sequences[0], to_sequence=sequences[-1])

    assert desk.http.patch(path, json={"paused": False}).status_code == 200
    assert ended(client, replay)["sent"] == 5
    ((together, mark),) = notes.wait(1)
    assert (together, mark) == (["0", "1", "2", "3", "4"], replay["replay_id"])


def test_what_the_bus_holds_no_more_is_counted_and_named(
    service: RunningService, desk: EventsDesk, client: Client, kind: str
) -> None:
    name, notes = f"b{uuid.uuid4().hex[:8]}", desk.notes()
    assert desk.http.post("/api/v1/buses", json={"name": name}).status_code == 201
    client.publish_batch(({"type": kind, "source": "/s", "id": str(n)} for n in range(10)), bus=name)

    async def forget(connection: Connection) -> None:
        stream = event_stream(name)
        await connection.api(f"STREAM.PURGE.{stream}", {"seq": 3})
        for sequence in (5, 6, 10):
            await connection.api(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence})

    service.bus(forget)
    target: dict[str, Any] = {
        "function_id": desk.function,
        "endpoint_id": desk.endpoint,
        "input": {"args": [str(notes.path), "{{ event.id }}"]},
    }
    done = ended(client, client.create_replay(**target, bus=name, from_sequence=1))

    assert (done["state"], done["looked_at"], done["sent"], done["missing"]) == ("finished", 5, 5, 5)
    assert done["gaps"] == [
        {"first": 1, "last": 2, "reason": "expired"},
        {"first": 5, "last": 6, "reason": "deleted"},
        {"first": 10, "last": 10, "reason": "deleted"},
    ]
    assert sorted(notes.wait(5)) == [["2"], ["3"], ["6"], ["7"], ["8"]]
    assert done["forgotten_until"] is None
    late = client.create_replay(**target, bus=name, since="12h", until="11h")
    assert (late["forgotten_until"] is not None, late["left"]) == (True, 0)
    assert ended(client, late)["sent"] == 0


def test_a_replay_that_may_not_go_on_fails_and_goes_on_once_it_may(
    service: RunningService, endpoint: str, tmp_path: Path, kind: str
) -> None:
    admin, name = service.http(), f"u{uuid.uuid4().hex[:8]}"
    token = service.add_user(name)
    function = service.add_function(NOTES, "note", public=True)
    desk = EventsDesk(service.http(token), tmp_path, function, endpoint)
    notes, mine = desk.notes(), Client(url=service.url, token=token)
    (sequence,) = publish(desk, kind, 1)

    def share(*names: str) -> None:
        shared = [f"urn:headrace:user:{each}" for each in names]
        assert admin.patch(f"/api/v1/endpoints/{endpoint}", json={"shared_with": shared}).status_code == 200

    share(name)
    subscription = desk.subscribe(kind, notes)
    share()
    failed = ended(mine, mine.create_replay(subscription, from_sequence=sequence))
    assert (failed["state"], failed["sent"]) == ("failed", 0)
    assert endpoint in failed["problem"]
    assert desk.dead_letters(subscription) == []

    share(name)
    mine.resume_replay(failed["replay_id"])
    assert ended(mine, failed)["sent"] == 1
    assert notes.wait(1) == [["0"]]
    with service.http(service.add_user(f"{name}x")) as other:
        assert other.get(f"/api/v1/replays/{failed['replay_id']}").status_code == 404
    desk.unsubscribe(subscription)
    with pytest.raises(NotFound):
        mine.create_replay(subscription, from_sequence=1)
    share()
    mine.close()


def test_a_replay_that_cannot_be_is_refused_with_the_place(desk: EventsDesk, client: Client, kind: str) -> None:
    subscription = desk.subscribe(kind, desk.notes())
    target = {"function_id": desk.function, "endpoint_id": desk.endpoint}
    for body, pointer in (
        ({"since": "1h"}, "/target"),
        ({"subscription_id": subscription, "target": target, "since": "1h"}, "/target"),
        ({"subscription_id": subscription}, "/since"),
        ({"subscription_id": subscription, "since": "1h", "from_sequence": 1}, "/since"),
        ({"subscription_id": subscription, "since": "2999-01-01T00:00:00Z"}, "/since"),
        ({"subscription_id": subscription, "since": "soon"}, "/since"),
        ({"subscription_id": subscription, "since": "1h", "until": "2h"}, "/until"),
        ({"subscription_id": subscription, "from_sequence": 5, "to_sequence": 3}, "/to_sequence"),
        ({"subscription_id": subscription, "since": "1h", "filter": {"exact": {"Type": "x"}}}, "/filter/exact/Type"),
        ({"target": {**target, "input": {"args": ["{{ event. }}"]}}, "since": "1h"}, "/target/input/args/0"),
        ({"subscription_id": subscription, "since": "1h", "per_second": 0}, "/per_second"),
    ):
        answer = desk.http.post("/api/v1/replays", json=body)
        assert answer.status_code == 422, answer.text
        assert pointer in [error["pointer"] for error in answer.json()["errors"]], answer.text
    with pytest.raises(RequestRefused):
        client.change_replay(client.create_replay(subscription, since="1s")["replay_id"])


def test_a_replay_whose_dispatcher_is_killed_is_finished_by_another_one_with_nothing_missing_or_doubled(
    tmp_path: Path,
) -> None:
    events = 300
    with (
        running_service(tmp_path / "service", dispatcher=False) as service,
        running_pool(service, tmp_path / "pool") as pool,
        Client(url=service.url, token=service.token) as client,
    ):
        desk = EventsDesk(service.http(), tmp_path, service.add_function(NOTES, "note"), pool.endpoint_id)
        notes = desk.notes()
        client.publish_batch({"type": "kind", "source": "/s", "id": str(n)} for n in range(events))
        subscription = desk.subscribe("kind", notes, *MARKED)
        first, second = (_dispatch(service, tmp_path / f"dispatcher{n}.log") for n in range(2))
        try:
            replay = client.create_replay(subscription, from_sequence=1, per_second=150)
            notes.wait(100, within_s=20)
            eventually(lambda: client.get_replay(replay["replay_id"])["position"] > 0, 5, "its position is written")

            async def holder(connection: Connection) -> str:
                found = await holder_of(Tables.on(connection).leases, f"replay.{uuid.UUID(replay['replay_id']).hex}")
                return "" if found is None else found.holder

            held_by = eventually(lambda: service.bus(holder), 10, "somebody holds the lease")
            pid = int(str(held_by).rpartition("/")[2])
            assert pid in (first.pid, second.pid)
            os.kill(pid, signal.SIGKILL)
            midway = client.get_replay(replay["replay_id"])
            assert 0 < midway["position"] < events

            done = ended(client, replay, within_s=30)

            assert (done["state"], done["sent"], done["missing"]) == ("finished", events, 0)
            notes.wait(events, within_s=20)
            assert sorted(notes.args) == sorted([str(n), replay["replay_id"]] for n in range(events))
            assert client.list_dead_letters() == []
        finally:
            for process in (first, second):
                process.kill()
                process.wait(60)


class SlowlyRead(Records[ReplayRecord]):
    """Whoever takes a replay up finds it paused, and is answered once it was resumed and that was heard of."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, "replays", ReplayRecord)
        self._heard: dict[str, int] = {}
        self._is_slow = True

    async def watch(self, on_change: Callable[[str, Record[ReplayRecord] | None], None]) -> Watch[ReplayRecord]:
        def changed(key: str, record: Record[ReplayRecord] | None) -> None:
            on_change(key, record)
            self._heard[key] = record.revision if record is not None else 0

        return await super().watch(changed)

    async def get(self, key: str) -> Record[ReplayRecord] | None:
        found = await super().get(key)
        if found is None or not self._is_slow:
            return found
        self._is_slow = False
        paused = await self.update(found, msgspec.structs.replace(found.value, state="paused"))
        resumed = await self.update(paused, msgspec.structs.replace(paused.value, state="running"))
        await eventually_async(lambda: self._heard.get(key) == resumed.revision)
        return paused


def test_a_replay_that_is_resumed_in_the_moment_in_which_it_is_found_paused_goes_on(tmp_path: Path) -> None:
    replay = ReplayRecord(
        replay_id=uuid.uuid4(), name="of nothing", owner="urn:headrace:user:admin", created_at=0.0, after=0, last=0
    )

    async def ended(connection: Connection) -> ReplayRecord:
        keys, tables = ServiceKeys.load(service.keys_dir).key_ring(), Tables.on(connection)
        over: asyncio.Future[ReplayRecord] = asyncio.get_running_loop().create_future()

        def changed(_key: str, record: Record[ReplayRecord] | None) -> None:
            if record is not None and record.value.ended and not over.done():
                over.set_result(record.value)

        await tables.replays.create(replay.replay_id.hex, replay)
        watch = await tables.replays.watch(changed)
        slow = dataclasses.replace(tables, replays=SlowlyRead(connection))
        dispatcher = asyncio.create_task(Dispatcher(connection, keys, slow).run())
        try:
            return await asyncio.wait_for(over, 20)
        finally:
            dispatcher.cancel()
            await asyncio.wait({dispatcher})
            await watch.stop()

    with running_service(tmp_path / "service", dispatcher=False) as service:
        assert service.bus(ended, 40.0).state == "finished"


def _dispatch(service: RunningService, log: Path) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "headrace.cli.main", "dispatch", "--home", str(service.home)]
    with log.open("wb") as output:
        return subprocess.Popen([*program, "--nats-url", service.nats.url], stdout=output, stderr=output)
