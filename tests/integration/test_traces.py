"""One event, and everything that followed from it: found by ids alone, and shown to those whom it concerns."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

import pytest
from events_desk import FLOW_NOTES, EventsDesk
from service import RunningService
from waiting import eventually

from headrace.bus.eventing.traces.lookups import find_event, newest_events
from headrace.bus.names import event_stream, event_subject
from headrace.bus.nats.connection import Connection
from headrace.bus.store.streams import purge
from headrace.cli.trace_view import tree
from headrace.sdk import Client, NotFound, RequestRefused


def traced(client: Client, event: int | tuple[str, str], state: str, **more: Any) -> dict[str, Any]:
    """The trace, once the one delivery that it has is in this state."""

    def look() -> dict[str, Any] | None:
        found = client.trace_event(event, **more)
        states = [delivery["state"] for each in found["subscriptions"] for delivery in each["deliveries"]]
        return found if states == [state] else None

    found = eventually(look, 10, f"the delivery is {state}")
    assert found is not None
    return found


def test_an_event_is_followed_to_its_results_by_sequence_and_by_source_and_id(
    desk: EventsDesk, client: Client, kind: str
) -> None:
    notes = desk.notes()
    subscription = desk.subscribe(kind, notes, name="noted")
    desk.subscribe(f"{kind}.other", desk.notes())
    sequence = desk.publish(kind, "1", data={"n": 1})["sequence"]

    found = traced(client, sequence, "succeeded")

    assert found["stored"]["event"]["data"] == {"n": 1}
    assert found["stored"]["published_by"] == "urn:headrace:user:admin"
    (tried,) = found["subscriptions"]
    assert (tried["subscription_id"], tried["name"], tried["matched"]) == (subscription, "noted", True)
    (attempt,) = tried["deliveries"][0]["attempts"]
    task = desk.http.get(f"/api/v1/tasks/{attempt['task_id']}").json()
    assert (task["state"], task["ended_at"]) == (attempt["state"], attempt["ended_at"])
    assert found["passed_over"] >= 1
    for event_type in (None, kind):
        assert client.trace_event((f"/test/{kind}", "1"), event_type=event_type) == found
    text = "\n".join(tree(found))
    assert f"noted ({subscription}) matched" in text
    assert f"attempt 1: succeeded {attempt['ended_at']}  task {attempt['task_id']}" in text


def test_failures_dead_letters_and_redrives_are_followed_also_to_another_endpoint(
    service: RunningService, desk: EventsDesk, client: Client, kind: str
) -> None:
    notes = desk.notes()
    retry = {"max_attempts": 5, "first_delay_s": 0.05, "factor": 1}
    subscription = desk.subscribe(kind, notes, kwargs={"fail": 99}, retry=retry)
    sequence = desk.publish(kind, "1")["sequence"]

    (delivery,) = traced(client, sequence, "dead")["subscriptions"][0]["deliveries"]

    letter = desk.dead_letter(subscription)
    assert delivery["dead_letter"]["dead_letter_id"] == letter["dead_letter_id"]
    assert [(each["attempt"], each["task_id"]) for each in delivery["attempts"]] == [
        (each["attempt"], each["task_id"]) for each in letter["attempts"]
    ]
    assert {each["error"] for each in delivery["attempts"]} == {"ValueError"}

    away, _ = service.add_endpoint(f"away-{kind}")
    client.redrive_dead_letters(dead_letter_ids=[letter["dead_letter_id"]], endpoint_id=away)
    (delivery,) = traced(client, sequence, "pending")["subscriptions"][0]["deliveries"]

    assert delivery["endpoint_id"] == away
    (redrive,) = delivery["redrives"]
    assert (redrive["endpoint_id"], redrive["redriven"], redrive["code"]) == (away, 1, "AttemptsExhausted")
    assert [each["endpoint_id"] for each in delivery["attempts"]] == [desk.endpoint] * 5 + [away]
    shown = "\n".join(tree(client.trace_event(sequence)))
    assert "attempt 5: failed" in shown
    assert "after AttemptsExhausted" in shown


def test_what_waits_for_its_next_attempt_says_when(desk: EventsDesk, client: Client, kind: str) -> None:
    retry = {"first_delay_s": 3600, "max_delay_s": 3600}
    desk.subscribe(kind, desk.notes(), kwargs={"fail": 99}, retry=retry)
    sequence = desk.publish(kind, "1")["sequence"]

    found = traced(client, sequence, "waiting")

    first, second = found["subscriptions"][0]["deliveries"][0]["attempts"]
    assert (first["state"], first["message"]) == ("failed", "run 1 fails")
    assert second["due_at"] > first["ended_at"]
    assert f"attempt 2: due {second['due_at']}" in "\n".join(tree(found))


def test_what_was_announced_is_followed_from_event_to_event(desk: EventsDesk, client: Client, kind: str) -> None:
    first, second = desk.notes(), desk.notes()
    desk.subscribe(kind, first, name="begins", announce={"success": {"type": f"{kind}.done"}})
    failing = desk.subscribe(
        f"{kind}.done",
        second,
        kwargs={"fail": 9},
        name="goes on",
        retry={"max_attempts": 1},
        announce={"failure": {"type": f"{kind}.failed"}},
    )
    sequence = desk.publish(kind, "1")["sequence"]
    desk.dead_letter(failing)

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = client.trace_event(sequence)["subscriptions"][0]["deliveries"][0]["announced"]
        further = found and found["trace"]["subscriptions"][0]["deliveries"][0]["announced"]
        return found if further else None

    told = eventually(look, 5, "all is announced")

    assert told is not None
    assert told["type"] == f"{kind}.done"
    followed = told["trace"]
    assert followed["stored"]["event"]["causationid"] == "1"
    assert [each["name"] for each in followed["subscriptions"]] == ["goes on"]
    (delivery,) = followed["subscriptions"][0]["deliveries"]
    assert (delivery["state"], delivery["announced"]["type"]) == ("dead", f"{kind}.failed")
    assert delivery["announced"]["trace"]["subscriptions"] == []
    text = "\n".join(tree(client.trace_event(sequence)))
    assert f"({kind}.failed)" in text
    unfollowed = client.trace_event(sequence, follow=False)["subscriptions"][0]["deliveries"][0]["announced"]
    assert unfollowed == {**told, "trace": None}


def test_what_is_queued_by_flow_control_is_followed(desk: EventsDesk, client: Client, kind: str) -> None:
    notes = desk.notes()
    retry = {"first_delay_s": 3600, "max_delay_s": 3600}
    desk.subscribe(kind, notes, kwargs={"fail": 9}, retry=retry, flow={"order_by": "source"})
    first, second = (desk.publish(kind, each)["sequence"] for each in ("1", "2"))

    def next_attempt() -> dict[str, Any] | None:
        (delivery,) = client.trace_event(first)["subscriptions"][0]["deliveries"]
        return delivery if [each["state"] for each in delivery["attempts"]] == ["failed", "waiting"] else None

    delivery = eventually(next_attempt, 10, "the next attempt waits")
    assert delivery is not None
    assert delivery["attempts"][1]["due_at"] > delivery["attempts"][0]["ended_at"]
    (parked,) = traced(client, second, "waiting")["subscriptions"][0]["deliveries"]
    assert [each["attempt"] for each in parked["attempts"]] == [1]


def test_what_joins_others_is_followed_to_what_came_of_all_of_them(desk: EventsDesk, client: Client, kind: str) -> None:
    notes = desk.notes()
    of = {name: {"exact": {"type": f"{kind}.{name}"}} for name in ("image", "header")}
    join = {"of": of, "key": "{{ event.subject }}", "within_s": 60}
    subscription = desk.subscribe(kind, notes, filter={"prefix": {"type": f"{kind}."}}, join=join)
    image = desk.publish(f"{kind}.image", "i", subject="one")["sequence"]

    (waiting,) = client.trace_event(image)["subscriptions"]

    assert (waiting["is_part"], waiting["joined"], waiting["deliveries"]) == (True, None, [])
    desk.publish(f"{kind}.header", "h", subject="one")
    notes.wait(1)
    joined = eventually(lambda: client.trace_event(image)["subscriptions"][0]["joined"], 5, "it is joined")
    assert joined is not None
    (whole,) = joined["trace"]["subscriptions"]
    assert (whole["subscription_id"], whole["is_part"]) == (subscription, False)
    assert len(whole["deliveries"]) == 1
    assert "joined with others" in "\n".join(tree(client.trace_event(image)))
    # A replay brings what was joined, and begins no join.
    replay = client.create_replay(subscription, from_sequence=image, per_second=1000)
    assert len(notes.wait(2)) == 2
    eventually(lambda: client.get_replay(replay["replay_id"])["state"] == "finished", 5, "the replay has ended")
    assert client.get_replay(replay["replay_id"])["sent"] == 1


def test_a_forgotten_event_still_leads_to_its_deliveries(
    service: RunningService, desk: EventsDesk, client: Client, kind: str
) -> None:
    notes = desk.notes()
    subscription = desk.subscribe(kind, notes)
    sequence = desk.publish(kind, "1")["sequence"]
    traced(client, sequence, "succeeded")

    service.bus(lambda connection: purge(connection, event_stream("default"), event_subject("default", kind)))

    with pytest.raises(NotFound):
        client.trace_event(sequence)
    found = client.trace_event((f"/test/{kind}", "1"))
    assert (found["stored"], [each["subscription_id"] for each in found["subscriptions"]]) == (None, [subscription])
    assert found["subscriptions"][0]["deliveries"][0]["state"] == "succeeded"
    assert "not found on the bus" in "\n".join(tree(found))


def test_owners_see_their_own_deliveries_publishers_that_it_was_stored_and_administrators_all(
    service: RunningService, desk: EventsDesk, client: Client, kind: str
) -> None:
    name = f"u{uuid.uuid4().hex[:8]}"
    theirs = service.http(service.add_user(name))
    subscription = desk.subscribe(kind, desk.notes(), name="mine")
    publisher = EventsDesk(theirs, desk.directory, desk.function, desk.endpoint)
    sequence = publisher.publish(kind, "1")["sequence"]

    seen = theirs.get(f"/api/v1/events/{sequence}/trace").json()

    assert (seen["stored"]["published_by"], seen["subscriptions"]) == (f"urn:headrace:user:{name}", [])
    assert theirs.get(f"/api/v1/events/{sequence}/trace?subscription_id={subscription}").status_code == 404
    other = service.http(service.add_user(f"{name}x"))
    assert "published_by" not in other.get(f"/api/v1/events/{sequence}").json()
    assert client.trace_event(sequence)["stored"]["published_by"] == f"urn:headrace:user:{name}"
    assert [each["name"] for each in client.trace_event(sequence)["subscriptions"]] == ["mine"]


def test_a_trace_explains_what_did_not_match_and_comes_in_pages(desk: EventsDesk, client: Client, kind: str) -> None:
    wanted = [desk.subscribe(kind, desk.notes()) for _ in range(3)]
    unwanted = desk.subscribe(f"{kind}.other", desk.notes())
    sequence = desk.publish(kind, "1")["sequence"]
    late = desk.subscribe(kind, desk.notes())

    page = desk.http.get(f"/api/v1/events/{sequence}/trace?limit=2").json()
    rest = desk.http.get(f"/api/v1/events/{sequence}/trace?limit=2&start={page['next']}").json()

    shown = [each["subscription_id"] for each in (*page["subscriptions"], *rest["subscriptions"])]
    assert (shown, rest["next"]) == (wanted, None)
    explained = {each["subscription_id"]: each for each in client.trace_event(sequence, explain=True)["subscriptions"]}
    assert explained[wanted[0]]["explanation"]["passed"]
    assert (explained[unwanted]["matched"], explained[unwanted]["explanation"]["passed"]) == (False, False)
    assert explained[unwanted]["deliveries"] == []
    assert late not in explained
    one = client.trace_event(sequence, subscription_id=unwanted, explain=True)
    assert [each["matched"] for each in one["subscriptions"]] == [False]
    assert "no: " in "\n".join(tree(one))


def test_events_are_listed_newest_first_by_type_time_and_filter(
    service: RunningService, client: Client, kind: str
) -> None:
    client.publish_batch({"type": kind, "source": "/s", "id": str(n), "data": {"n": n}} for n in range(30))
    client.publish({"type": f"{kind}.below", "source": "/s", "id": "below"})

    def ids(**query: Any) -> list[str]:
        return [each["event"]["id"] for each in client.list_events(**query)]

    assert ids(event_type=kind) == [str(n) for n in reversed(range(30))]
    assert ids(event_type=kind, limit=4) == ["29", "28", "27", "26"]
    assert ids(event_type=f"{kind}.*") == ["below"]
    assert ids(event_type=kind, wanted={"pattern": {"data": {"n": [{"numeric": ["<", 2]}]}}}) == ["1", "0"]
    assert ids(event_type=kind, since="1h", limit=1) == ["29"]
    assert ids(event_type=kind, until="1h") == []
    assert ids(limit=1) == ["below"]
    first = client.list_events(event_type=kind, limit=30)[-1]
    assert client.get_event(first["sequence"]) == first

    async def with_little_patience(connection: Connection) -> None:
        subject = event_subject("default", kind)
        page = await newest_events(connection, "default", subject=subject, limit=10)
        assert page.next == page.events[-1].sequence
        rest = await newest_events(connection, "default", subject=subject, limit=50, before=page.next, most=1)
        assert [each.sequence for each in rest.events] == list(range(page.next - 1, first["sequence"] - 1, -1))
        assert await find_event(connection, "default", "/s", "0", subject=subject) is not None
        assert await find_event(connection, "default", "/s", "nothere", subject=subject) is None

    service.bus(with_little_patience)


def test_questions_that_cannot_be_answered_say_what_is_wrong(service: RunningService, client: Client) -> None:
    get = service.http().get
    for query, pointer in (
        ("?since=yesterday", "?since"),
        ("?filter=x", "?filter"),
        ("?limit=0", "?limit"),
        ("/1/trace?explain=maybe", "?explain"),
        ("/1/trace?subscription_id=1", "?subscription_id"),
        ("/trace?source=/s", "?source"),
    ):
        answer = get(f"/api/v1/events{query}")
        problems = (404,) if answer.status_code == 404 else (422, pointer)
        found = (answer.status_code, *(error["pointer"] for error in answer.json().get("errors", [])))
        assert found == problems, answer.text
    assert get("/api/v1/events/none").status_code == 404
    assert get("/api/v1/events?bus=none").status_code in (400, 404)
    with pytest.raises(NotFound):
        client.get_event(10**15)
    with pytest.raises(RequestRefused):
        client.list_events(wanted={"pattern": []})


def test_what_went_in_a_batch_is_followed_from_each_of_its_events(
    service: RunningService, desk: EventsDesk, client: Client, kind: str
) -> None:
    desk = dataclasses.replace(desk, function=service.add_function(FLOW_NOTES, "work"))
    gate = desk.directory / f"gate-{kind}"
    batch: dict[str, Any] = {"size": 3, "window_s": 60}
    arguments = {"gate": str(gate), "bad": ["2"]}
    later = {"first_delay_s": 3600, "max_delay_s": 3600}
    for name, more, kwargs in (("whole", {}, {}), ("reported", {"partial_failures": True}, {"report": True})):
        flow = {"batch": {**batch, **more}}
        desk.subscribe(
            kind, desk.notes(), "{{ events }}", kwargs={**arguments, **kwargs}, name=name, retry=later, flow=flow
        )
    events = [desk.publish(kind, each)["sequence"] for each in ("1", "2", "3")]

    def attempts(event: int, name: str) -> list[tuple[int, str]]:
        (tried,) = (each for each in client.trace_event(event)["subscriptions"] if each["name"] == name)
        return [(each["attempt"], each["state"]) for each in tried["deliveries"][0]["attempts"]]

    def become(name: str, *wanted: list[tuple[int, str]]) -> None:
        eventually(lambda: [attempts(event, name) for event in events] == [*wanted], 10, f"{name} is {wanted}")

    running, succeeded, failed = [(1, "running")], [(1, "succeeded")], [(1, "failed"), (2, "waiting")]
    become("whole", running, running, running)
    become("reported", running, running, running)
    gate.touch()

    become("whole", failed, failed, failed)
    become("reported", succeeded, failed, succeeded)
    tasks = {
        each["task_id"]
        for event in events
        for tried in client.trace_event(event)["subscriptions"]
        for each in tried["deliveries"][0]["attempts"]
        if each["attempt"] == 1
    }
    assert len(tasks) == 2, "one task of each subscription"
    assert {desk.http.get(f"/api/v1/tasks/{task}").json()["state"] for task in tasks} == {"failed", "succeeded"}
