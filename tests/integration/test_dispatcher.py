"""Events run functions: matched, delivered, retried and given up, with a real bus, service and pool."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from events_desk import NOTES, EventsDesk
from service import RunningService
from waiting import eventually

from headrace.bus.eventing.dead_letters import DeadLetter, bury, newest
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.names import event_subject
from headrace.bus.nats.connection import Connection
from headrace.bus.store.streams import purge
from headrace.bus.tasks.submission import DELIVERIES_GROUP


def test_an_event_runs_a_function_with_rendered_arguments(desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    desk.subscribe(kind, notes, "{{ event.data.list }}", kwargs={"label": "{{ event.subject }}: {{ event.data.n }}"})
    answer = desk.publish(kind, "1", subject="lab", data={"list": [1, 2.5, None], "n": 3})
    assert answer["duplicate"] is False
    assert notes.wait(1) == [[[1, 2.5, None]]]
    assert notes.runs[0][2] == {"label": "lab: 3"}


def test_without_an_input_the_function_gets_the_event(service: RunningService, desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    source = (
        f"import json\ndef f(event):\n    open({str(notes.path)!r}, 'w').write(json.dumps([0, event, 0]) + '\\n')\n"
    )
    body = {
        "filter": {"exact": {"type": kind}},
        "function_id": service.add_function(source),
        "endpoint_id": desk.endpoint,
    }
    assert desk.http.post("/api/v1/subscriptions", json=body).status_code == 201
    desk.publish(kind, "1", data={"a": 1}, ext=5)
    expected = {"id": "1", "source": f"/test/{kind}", "specversion": "1.0", "type": kind, "data": {"a": 1}, "ext": 5}
    assert notes.wait(1) == [expected]


def test_only_events_that_pass_the_filter_are_delivered_and_to_every_subscription(desk: EventsDesk, kind: str) -> None:
    first, second, third = desk.notes(), desk.notes(), desk.notes()
    desk.subscribe(kind, first)
    desk.subscribe(kind, second, filter={"prefix": {"type": kind}})
    desk.subscribe(kind, third, filter={"all": [{"exact": {"type": kind}}, {"not": {"exact": {"subject": "no"}}}]})
    desk.publish(kind, "1", subject="no")
    desk.publish(kind + ".below", "2", subject="yes")
    desk.publish(kind, "3", subject="yes")
    assert sorted(first.wait(2)) == [["1"], ["3"]]
    assert sorted(second.wait(3)) == [["1"], ["2"], ["3"]]
    assert third.wait(1) == [["3"]]
    metrics = desk.http.get("/metrics").text
    assert 'headrace_deliveries_total{what="matched"}' in metrics


def test_an_event_right_after_the_subscription_is_delivered_and_one_before_is_not(desk: EventsDesk, kind: str) -> None:
    for n in range(20):
        notes = desk.notes()
        desk.publish(f"{kind}.{n}", "before")
        subscription = desk.subscribe(f"{kind}.{n}", notes)
        desk.publish(f"{kind}.{n}", "after")
        assert notes.wait(1) == [["after"]]
        desk.unsubscribe(subscription)


def test_an_event_that_is_published_twice_runs_once(desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    desk.subscribe(kind, notes)
    first, again = desk.publish(kind, "1"), desk.publish(kind, "1")
    assert again == {**first, "duplicate": True}
    desk.publish(kind, "2")
    assert sorted(notes.wait(2)) == [["1"], ["2"]]


def test_an_event_that_is_published_again_beyond_the_window_for_duplicates_runs_once(
    service: RunningService, desk: EventsDesk, kind: str
) -> None:
    notes = desk.notes()
    desk.subscribe(kind, notes)
    event = CloudEvent.of_document({"id": "1", "source": f"/test/{kind}", "specversion": "1.0", "type": kind})

    async def publish(connection: Connection) -> int:
        # Without a message id: as the server takes it when it has forgotten the first.
        return (await connection.store(event_subject("default", kind), event.encode())).sequence

    first = service.bus(publish)
    notes.wait(1)
    assert service.bus(publish) > first
    desk.publish(kind, "2")
    assert notes.wait(2) == [["1"], ["2"]]


def test_a_failed_delivery_is_tried_again_until_it_succeeds(desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    subscription = desk.subscribe(kind, notes, kwargs={"fail": 1}, retry={"first_delay_s": 0.1})
    desk.publish(kind, "1")
    assert notes.wait(2) == [["1"], ["1"]]
    desk.publish(kind, "2")
    assert notes.wait(3)[2] == ["2"]
    assert desk.dead_letters(subscription) == []


def test_the_last_failure_makes_a_dead_letter_that_shows_every_attempt(desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    retry = {"max_attempts": 3, "first_delay_s": 0.2, "factor": 3}
    subscription = desk.subscribe(kind, notes, kwargs={"fail": 99}, retry=retry, name="fails")
    desk.publish(kind, "1", data={"payload": [1]})
    letter = desk.dead_letter(subscription)
    assert letter["code"] == "AttemptsExhausted"
    assert "3" in letter["reason"]
    assert letter["event"]["data"] == {"payload": [1]}
    assert (letter["subscription_name"], letter["event_id"]) == ("fails", "1")
    attempts = letter["attempts"]
    assert [each["attempt"] for each in attempts] == [1, 2, 3]
    assert [each["message"] for each in attempts] == ["run 1 fails", "run 2 fails", "run 3 fails"]
    assert all(each["error"] == "ValueError" and "in note" in each["traceback"] for each in attempts)
    assert len({each["task_id"] for each in attempts}) == 3
    for each in attempts:
        task = desk.http.get(f"/api/v1/tasks/{each['task_id']}").json()
        assert task["error"]["message"] == each["message"]
    first, second, third = (time for time, _, _ in notes.runs)
    assert second - first >= 0.2
    assert third - second >= 0.6


def test_a_template_that_fails_goes_straight_to_the_dead_letters(desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    subscription = desk.subscribe(kind, notes, "{{ event.data.missing }}")
    desk.publish(kind, "1", data={})
    letter = desk.dead_letter(subscription)
    assert (letter["code"], letter["attempts"]) == ("InputFailed", [])
    assert "missing" in letter["reason"]
    assert "/args/1" in letter["reason"]
    assert notes.runs == []


def test_a_deleted_function_goes_straight_to_the_dead_letters(desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    subscription = desk.subscribe(kind, notes)
    desk.http.delete(f"/api/v1/functions/{desk.function}")
    desk.publish(kind, "1")
    letter = desk.dead_letter(subscription)
    assert letter["code"] == "DeliveryForbidden"
    assert desk.function in letter["reason"]
    assert notes.runs == []


def test_rights_are_checked_when_the_subscription_is_made_and_at_every_delivery(
    service: RunningService, endpoint: str, tmp_path: Path, kind: str
) -> None:
    admin, name = service.http(), f"u{uuid.uuid4().hex[:8]}"
    ada = service.http(service.add_user(name))
    function = service.add_function(NOTES, "note", public=True)
    body = {"filter": {"exact": {"type": kind}}, "function_id": function, "endpoint_id": endpoint}
    assert ada.post("/api/v1/subscriptions", json=body).status_code == 404
    shared = admin.patch(f"/api/v1/endpoints/{endpoint}", json={"shared_with": [f"urn:headrace:user:{name}"]})
    assert shared.status_code == 200, shared.text

    desk = EventsDesk(ada, tmp_path, function, endpoint)
    notes = desk.notes()
    subscription = desk.subscribe(kind, notes)
    desk.publish(kind, "1")
    assert notes.wait(1) == [["1"]]

    assert admin.patch(f"/api/v1/endpoints/{endpoint}", json={"shared_with": []}).status_code == 200
    desk.publish(kind, "2")
    assert desk.dead_letter(subscription)["code"] == "DeliveryForbidden"
    assert notes.args == [["1"]]
    # Nobody else sees it.
    assert admin.get(f"/api/v1/subscriptions/{subscription}").status_code == 404
    assert admin.delete(f"/api/v1/subscriptions/{subscription}").status_code == 404
    assert subscription not in admin.get("/api/v1/subscriptions").text
    assert subscription not in admin.get("/api/v1/dead-letters").text


def test_an_event_that_cannot_be_read_blocks_no_other(service: RunningService, desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    desk.subscribe(kind, notes)
    service.bus(lambda connection: connection.store(event_subject("default", kind), b"\x00 not an event"))
    desk.publish(kind, "1")
    assert notes.wait(1) == [["1"]]


def test_deleting_a_subscription_drops_what_waits(service: RunningService, desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    subscription = desk.subscribe(kind, notes, kwargs={"fail": 99}, retry={"first_delay_s": 3600, "max_delay_s": 3600})
    desk.publish(kind, "1")
    notes.wait(1)

    async def waiting(connection: Connection) -> int:
        subject = f"delivery.later.{UUID(subscription).hex}.>"
        info = await connection.api("STREAM.INFO.DELIVERIES", {"subjects_filter": subject})
        return len(info["state"].get("subjects") or {})

    eventually(lambda: service.bus(waiting) == 1, message="the next attempt waits")
    desk.unsubscribe(subscription)
    assert service.bus(waiting) == 0
    desk.publish(kind, "2")
    other = desk.notes()
    desk.subscribe(kind, other)
    desk.publish(kind, "3")
    assert other.wait(1) == [["3"]]
    assert notes.args == [["1"]]


def test_a_forged_result_of_a_delivery_is_not_believed(service: RunningService, desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    subscription = desk.subscribe(kind, notes)
    subject = (
        f"result.{UUID(desk.endpoint).hex}.urn=3Aheadrace=3Auser=3Aadmin.{DELIVERIES_GROUP.hex}.{uuid.uuid4().hex}.0"
    )
    service.bus(lambda connection: connection.store(subject, b"HR\x01" + b"0" * 200))
    desk.publish(kind, "1")
    assert notes.wait(1) == [["1"]]
    assert desk.dead_letters(subscription) == []


def test_dead_letters_are_listed_newest_first_across_many_of_others(service: RunningService) -> None:
    def letter(owner: str, number: int, subscription: UUID) -> DeadLetter:
        return DeadLetter(
            dead_letter_id=uuid.uuid4(), subscription_id=subscription, subscription_name="", owner=owner,
            function_id=uuid.uuid4(), endpoint_id=uuid.uuid4(), bus="default", sequence=number, source="/s",
            event_id=str(number), event=None, reason="", code="", attempts=[], created_at=0.0,
        )  # fmt: skip

    mine, other = uuid.uuid4(), uuid.uuid4()

    async def work(connection: Connection) -> None:
        await purge(connection, "DEADLETTERS", "deadletter.>")
        assert await newest(connection, "urn:x:me") == []
        for number in range(5):
            await bury(connection, letter("urn:x:me", number, mine))
        for number in range(700):
            await bury(connection, letter("urn:x:other", number, uuid.uuid4()))
        repeated = letter("urn:x:me", 5, other)
        await bury(connection, repeated)
        await bury(connection, repeated)
        found = await newest(connection, "urn:x:me")
        assert [each.sequence for each in found] == [5, 4, 3, 2, 1, 0]
        found = await newest(connection, "urn:x:me", limit=2)
        assert [each.sequence for each in found] == [5, 4]
        found = await newest(connection, "urn:x:me", subscription=mine, limit=3)
        assert [each.sequence for each in found] == [4, 3, 2]

    service.bus(work)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"filter": {"exact": {"Type": "x"}}}, "/filter/exact/Type"),
        ({"filter": {}}, "/filter"),
        ({"filter": "type"}, "/filter"),
        ({"input": {"args": ["{{ event. }}"]}}, "/input/args/0"),
        ({"input": {"args": ["{{ data.level }}"]}}, "/input/args/0"),
        ({"input": {"args": ["{{ event.id }}"]}, "flow": {"batch": {"size": 5}}}, "/input/args/0"),
        (
            {
                "join": {
                    "of": {"a": {"exact": {"type": "a"}}, "b": {"exact": {"type": "b"}}},
                    "key": "{{ subject }}",
                    "within_s": 60,
                }
            },
            "/join/key",
        ),
        (
            {"endpoint": {"template": "{{ site }}", "allowed": {"a": str(UUID(int=1))}}, "endpoint_id": None},
            "/endpoint/template",
        ),
        ({"input": {"arguments": []}}, "/input"),
        ({"input": {"kwargs": {"x": "{% set a = 1 %}"}}}, "/input/kwargs/x"),
        ({"retry": {"max_attempts": 0}}, "/retry/max_attempts"),
        ({"more": 1}, ""),
    ],
)
def test_a_subscription_that_could_not_be_delivered_is_refused_with_its_place(
    desk: EventsDesk, change: dict[str, object], pointer: str
) -> None:
    body = {"filter": {"exact": {"type": "x"}}, "function_id": desk.function, "endpoint_id": desk.endpoint, **change}
    answer = desk.http.post("/api/v1/subscriptions", json=body)
    assert answer.status_code == 422, answer.text
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]


@pytest.mark.parametrize("name", ["function_id", "endpoint_id"])
def test_a_subscription_to_what_is_not_there_is_refused(desk: EventsDesk, name: str) -> None:
    body = {"filter": {"exact": {"type": "x"}}, "function_id": desk.function, "endpoint_id": desk.endpoint}
    answer = desk.http.post("/api/v1/subscriptions", json={**body, name: str(uuid.uuid4())})
    assert (answer.status_code, answer.json()["code"]) == (404, "NotFound")


def test_a_subscription_can_be_read_listed_and_deleted(desk: EventsDesk, kind: str) -> None:
    subscription = desk.subscribe(kind, desk.notes(), name="mine", retry={"max_attempts": 5})
    read = desk.http.get(f"/api/v1/subscriptions/{subscription}").json()
    assert (read["name"], read["retry"]["max_attempts"], read["retry"]["factor"]) == ("mine", 5, 2)
    listed = desk.http.get("/api/v1/subscriptions").json()["subscriptions"]
    assert listed[0] == read
    desk.unsubscribe(subscription)
    assert desk.http.get(f"/api/v1/subscriptions/{subscription}").status_code == 404


def redrive(desk: EventsDesk, **body: Any) -> dict[str, Any]:
    answer = desk.http.post("/api/v1/dead-letters/redrive", json=body)
    assert answer.status_code == 200, answer.text
    done: dict[str, Any] = answer.json()
    return done


def test_a_dead_letter_is_delivered_anew_from_its_first_attempt_on(desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    retry = {"max_attempts": 2, "first_delay_s": 0.1}
    subscription = desk.subscribe(kind, notes, kwargs={"fail": 5}, retry=retry)
    desk.publish(kind, "1")
    first = desk.dead_letter(subscription)

    assert redrive(desk, dead_letter_ids=[first["dead_letter_id"]]) == {"redriven": 1, "left": 0}

    notes.wait(4)
    second = desk.dead_letter(subscription)
    assert (second["redriven"], [each["attempt"] for each in second["attempts"]]) == (1, [1, 2, 3, 4])
    assert second["dead_letter_id"] != first["dead_letter_id"]
    assert desk.http.get(f"/api/v1/dead-letters/{first['dead_letter_id']}").status_code == 404

    assert redrive(desk, subscription_id=subscription)["redriven"] == 1
    notes.wait(6)  # The sixth run succeeds.
    assert desk.dead_letters(subscription) == []


def test_a_delivery_that_never_ran_is_delivered_anew_elsewhere(
    service: RunningService, desk: EventsDesk, kind: str
) -> None:
    notes = desk.notes()
    away, _ = service.add_endpoint("elsewhere")
    subscription = desk.subscribe(kind, notes, "{{ event.data.missing }}", endpoint_id=away)
    desk.publish(kind, "1", data={})
    letter = desk.dead_letter(subscription)

    # The template fails again, and a letter of its own tells so.
    redrive(desk, code="InputFailed", subscription_id=subscription, endpoint_id=desk.endpoint)

    def again() -> bool:
        letters = desk.dead_letters(subscription)
        return [(each["redriven"], each["endpoint_id"]) for each in letters] == [(1, desk.endpoint)]

    eventually(again, 10, "the letter of the second life")
    assert desk.dead_letter(subscription)["dead_letter_id"] != letter["dead_letter_id"]


def test_dead_letters_are_chosen_by_filter_and_removed(desk: EventsDesk, kind: str) -> None:
    subscription = desk.subscribe(kind, desk.notes(), "{{ event.data.missing }}")
    for number in range(4):
        desk.publish(kind, str(number), data={"n": number})
    eventually(lambda: len(desk.dead_letters(subscription)) == 4, 10, "four dead letters")
    purge_them = desk.http.post(
        "/api/v1/dead-letters/purge",
        json={"subscription_id": subscription, "filter": {"pattern": {"data": {"n": [{"numeric": ["<", 3]}]}}}},
    )

    assert purge_them.json() == {"purged": 3}
    assert desk.dead_letter(subscription)["event"]["data"] == {"n": 3}
    wrong: list[tuple[dict[str, Any], str]] = [({}, ""), ({"filter": {"pattern": {}}}, "/filter/pattern")]
    for body, pointer in wrong:
        refused = desk.http.post("/api/v1/dead-letters/purge", json=body)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, pointer)


def test_what_has_no_subscription_any_more_is_left_among_the_dead(desk: EventsDesk, kind: str) -> None:
    subscription = desk.subscribe(kind, desk.notes(), "{{ event.data.missing }}")
    desk.publish(kind, "1", data={})
    desk.dead_letter(subscription)
    desk.unsubscribe(subscription)

    assert redrive(desk, subscription_id=subscription) == {"redriven": 0, "left": 1}
    assert len(desk.dead_letters(subscription)) == 1


def test_a_schedule_runs_a_function_once_for_each_tick(desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    desk.subscribe(kind, notes, "{{ event.scheduledtime }}", "{{ event.data.depth }}")
    body = {"every_s": 1, "event": {"type": kind, "data": {"depth": 3}}}
    made = desk.http.post("/api/v1/schedules", json=body).json()
    ran = notes.wait(2)
    assert desk.http.delete(f"/api/v1/schedules/{made['schedule_id']}").status_code == 204

    assert [depth for _, depth in ran] == [3] * len(ran)
    assert len({tick for tick, _ in ran}) == len(ran)
