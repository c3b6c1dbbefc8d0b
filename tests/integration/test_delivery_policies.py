"""Policies of subscriptions, with a real bus, service and pool: what ends a delivery, where it waits, where it goes."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from events_desk import EventsDesk
from running_pool import RunningPool
from service import RunningService
from waiting import eventually

from headrace.sdk import Client

PICKY = """
class PermanentFailure(Exception):
    pass

def picky(kind):
    if kind == "own":
        raise PermanentFailure("never")
    if kind == "ours":
        from headrace.sdk import PermanentFailure as Ours
        raise Ours("never ever")
    raise {"key": KeyError, "value": ValueError}[kind](kind)
"""


def test_permanent_errors_go_straight_to_the_dead_letters(service: RunningService, desk: EventsDesk, kind: str) -> None:
    body = {
        "filter": {"exact": {"type": kind}},
        "function_id": service.add_function(PICKY, "picky"),
        "endpoint_id": desk.endpoint,
        "input": {"args": ["{{ event.id }}"]},
        "retry": {"max_attempts": 2, "first_delay_s": 0.1, "permanent_errors": ["KeyError"]},
    }
    subscription = desk.http.post("/api/v1/subscriptions", json=body).json()["subscription_id"]
    for event_id in ("own", "ours", "key", "value"):
        desk.publish(kind, event_id)
    eventually(lambda: len(desk.dead_letters(subscription)) == 4, message="all are given up")
    letters = {each["event_id"]: each for each in desk.dead_letters(subscription)}
    assert {name: (each["code"], len(each["attempts"])) for name, each in letters.items()} == {
        "own": ("PermanentFailure", 1),
        "ours": ("PermanentFailure", 1),
        "key": ("PermanentFailure", 1),
        "value": ("AttemptsExhausted", 2),
    }
    assert "never ever" in letters["ours"]["reason"]


def test_an_endpoint_that_is_away_costs_no_attempt(
    service: RunningService, desk: EventsDesk, kind: str, late: RunningPool
) -> None:
    """For ever; for as long as the subscription says, and on to the next endpoint; or to the dead letters."""
    away = service.add_endpoint(f"away-{kind}")[0]
    held, moved, ended, old = desk.notes(), desk.notes(), desk.notes(), desk.notes()
    once = {"max_attempts": 1}
    waits = desk.subscribe(kind, held, endpoint_id=late.endpoint_id, retry=once)
    offline = {"hold_s": 1, "next_endpoints": [away, desk.endpoint]}
    goes_on = desk.subscribe(kind, moved, endpoint_id=away, retry=once, kwargs={"fail": 1}, offline=offline)
    gives_up = desk.subscribe(kind, ended, endpoint_id=away, retry=once, offline={"hold_s": 1})
    grows_old = desk.subscribe(kind, old, endpoint_id=away, retry={"max_age_s": 1})
    desk.publish(kind, "1", data={"n": 1})

    letter = desk.dead_letter(gives_up)
    assert (letter["code"], letter["event"]["data"], letter["endpoint_id"]) == ("EndpointOffline", {"n": 1}, away)
    assert [(each["attempt"], each["state"]) for each in letter["attempts"]] == [(1, "expired")]
    assert desk.dead_letter(grows_old)["code"] == "EventTooOld"

    # It ran elsewhere, as its first and only attempt.
    letter = desk.dead_letter(goes_on)
    assert (letter["code"], letter["endpoint_id"]) == ("AttemptsExhausted", desk.endpoint)
    assert [(each["attempt"], each["state"]) for each in letter["attempts"]] == [(1, "expired"), (1, "failed")]
    assert moved.args == [["1"]]

    answer = desk.http.post(
        "/api/v1/dead-letters/redrive", json={"subscription_id": gives_up, "endpoint_id": desk.endpoint}
    )
    assert answer.json() == {"redriven": 1, "left": 0}
    assert ended.wait(1) == [["1"]]

    assert (held.args, desk.dead_letters(waits)) == ([], [])
    late.start()
    assert held.wait(1) == [["1"]]
    assert old.args == []


SLOW_ONCE = """
import os, time
def slow_once(path):
    fd = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(fd, b"x")
    if os.fstat(fd).st_size == 1:
        time.sleep(600)  # until its pool is killed
    return os.fstat(fd).st_size
"""


def test_an_endpoint_that_dies_while_it_runs_a_delivery_costs_no_attempt(
    service: RunningService, desk: EventsDesk, kind: str, late: RunningPool, tmp_path: Path
) -> None:
    late.start()
    marks = tmp_path / "marks"
    body = {
        "filter": {"exact": {"type": kind}},
        "function_id": service.add_function(SLOW_ONCE, "slow_once"),
        "endpoint_id": late.endpoint_id,
        "input": {"args": [str(marks)]},
        "retry": {"max_attempts": 1},
        "announce": {"success": {"type": f"{kind}.done"}},
        "offline": {"hold_s": 1, "next_endpoints": [desk.endpoint]},
    }

    def running() -> list[Any]:
        query = {"endpoint_id": late.endpoint_id, "state": "running"}
        tasks: list[Any] = desk.http.get("/api/v1/tasks", params=query).json()["tasks"]
        return tasks

    subscription = desk.http.post("/api/v1/subscriptions", json=body).json()["subscription_id"]
    desk.publish(kind, "1")
    # Written, not only opened: the run after it goes by what is there. And told of: what nobody knows to have begun
    # does not wait for its endpoint, but goes on to the next one.
    eventually(lambda: marks.exists() and marks.stat().st_size == 1, message="it runs")
    eventually(running, message="it is known to run")
    late.kill()
    late.start()

    def done() -> list[Any]:
        found: list[Any] = desk.http.get("/api/v1/events", params={"type": f"{kind}.done"}).json()["events"]
        return found

    (event,) = eventually(done, 20.0, "it has run again") or []
    assert (event["event"]["data"]["attempts"], event["event"]["data"]["result"]) == (1, 2)
    assert desk.dead_letters(subscription) == []


def test_an_event_names_its_endpoint(service: RunningService, desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    allowed = {"here": desk.endpoint}
    choice = {"template": "{{ event.data.site }}", "allowed": allowed}
    subscription = desk.subscribe(kind, notes, endpoint_id=None, endpoint=choice)
    desk.publish(kind, "1", data={"site": "here"})
    desk.publish(kind, "2", data={"site": desk.endpoint})
    assert notes.wait(1) == [["1"]]
    letter = desk.dead_letter(subscription)
    assert (letter["code"], letter["event_id"], letter["endpoint_id"]) == ("EndpointNotAllowed", "2", None)

    # Once it is allowed, the same event finds its place.
    allowed[desk.endpoint] = desk.endpoint
    changed = desk.http.patch(f"/api/v1/subscriptions/{subscription}", json={"endpoint": choice})
    assert (changed.status_code, changed.json()["endpoint"]) == (200, choice)

    def delivered() -> bool:
        desk.http.post("/api/v1/dead-letters/redrive", json={"subscription_id": subscription})
        return len(notes.args) == 2

    eventually(delivered, message="the event found its endpoint")
    stranger = {"template": "x", "allowed": {"x": service.add_endpoint("other", service.add_user(f"u{kind[-1]}"))[0]}}
    refused = desk.http.patch(f"/api/v1/subscriptions/{subscription}", json={"endpoint": stranger})
    assert refused.status_code == 404


def test_a_subscription_is_changed_and_keeps_its_id(desk: EventsDesk, kind: str) -> None:
    notes = desk.notes()
    subscription = desk.subscribe(kind, notes, name="first")
    desk.publish(kind, "1")
    notes.wait(1)
    change = {"filter": {"exact": {"type": f"{kind}.other"}}, "name": "second", "retry": {"max_attempts": 7}}
    answer = desk.http.patch(f"/api/v1/subscriptions/{subscription}", json=change)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert (document["subscription_id"], document["name"], document["retry"]["max_attempts"]) == (
        subscription,
        "second",
        7,
    )
    assert document == desk.http.get(f"/api/v1/subscriptions/{subscription}").json()

    tries = itertools.count()

    def heard() -> bool:
        # Each is an event of its own: one that was matched too early would be known, and not stored again.
        desk.publish(f"{kind}.other", f"2.{next(tries)}")
        return len(notes.args) >= 2

    eventually(heard, message="the new filter counts")
    desk.publish(kind, "3")
    desk.publish(f"{kind}.other", "4")
    eventually(lambda: ["4"] in notes.args, 10, "the last one has come")
    assert {event_id.partition(".")[0] for (event_id,) in notes.args} == {"1", "2", "4"}
    for wrong, pointer in (({}, ""), ({"filter": {"exact": {}}}, "/filter/exact"), ({"start": "now"}, "")):
        answer = desk.http.patch(f"/api/v1/subscriptions/{subscription}", json=wrong)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


def test_a_subscription_starts_where_it_says_with_nothing_missing_and_nothing_doubled(
    desk: EventsDesk, kind: str
) -> None:
    batch = [{"id": str(n), "source": "/s", "specversion": "1.0", "type": kind, "data": n} for n in range(450)]
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    assert desk.http.post("/api/v1/events", content=json.dumps(batch), headers=headers).status_code == 202
    many = desk.notes()
    desk.subscribe(kind, many, start="earliest")
    desk.publish(kind, "live")
    # More than a page of them, while others come.
    assert sorted(many.wait(451, 30.0)) == sorted([[str(n)] for n in range(450)] + [["live"]])
    kind = f"{kind}.few"
    numbers = [desk.publish(kind, str(n))["sequence"] for n in range(5)]
    stored = desk.http.get("/api/v1/events", params={"type": kind}).json()["events"]
    third = next(each["stored_at"] for each in stored if each["sequence"] == numbers[3])
    everything, some, by_time, ahead = (desk.notes() for _ in range(4))
    subscriptions = [
        desk.subscribe(kind, everything, start="earliest"),
        desk.subscribe(kind, some, start={"sequence": numbers[2]}),
        desk.subscribe(kind, by_time, start={"time": third}),
        desk.subscribe(kind, ahead, start={"sequence": numbers[-1] + 2}),
    ]
    for n in range(5, 10):
        desk.publish(kind, str(n))
    assert sorted(everything.wait(10)) == [[str(n)] for n in range(10)]
    assert sorted(some.wait(8)) == [[str(n)] for n in range(2, 10)]
    assert sorted(by_time.wait(7)) == [[str(n)] for n in range(3, 10)]
    assert sorted(ahead.wait(4)) == [[str(n)] for n in range(6, 10)]
    shown = [desk.http.get(f"/api/v1/subscriptions/{each}").json()["start"] for each in subscriptions]
    assert shown == ["earliest", {"sequence": numbers[2]}, {"time": third}, {"sequence": numbers[-1] + 2}]
    for wrong, pointer in (({"time": "soon"}, "/start/time"), ({"sequence": 0}, "/start"), ("later", "/start")):
        body = {"filter": {"exact": {"type": kind}}, "function_id": desk.function, "start": wrong}
        answer = desk.http.post("/api/v1/subscriptions", json={**body, "endpoint_id": desk.endpoint})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"][: len(pointer)]) == (422, pointer)


def test_a_subscription_that_has_expired_gets_no_event_finishes_what_it_has_and_goes(
    desk: EventsDesk, kind: str, late: RunningPool
) -> None:
    notes, waiting = desk.notes(), desk.notes()

    def at(seconds: float) -> dict[str, str]:
        return {"expires_at": (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()}

    short = desk.subscribe(kind, notes, **at(3600))
    retry = {"max_attempts": 2, "first_delay_s": 0.1}
    queued = desk.subscribe(kind, waiting, endpoint_id=late.endpoint_id, kwargs={"fail": 9}, retry=retry, **at(3600))
    desk.publish(kind, "1")
    notes.wait(1)
    # Only now: on a machine with much else to do it would have ended before the event had come.
    for each in (short, queued):
        answer = desk.http.patch(f"/api/v1/subscriptions/{each}", json=at(0.7))
        assert answer.status_code == 200, answer.text

    def is_there(subscription: str) -> bool:
        return desk.http.get(f"/api/v1/subscriptions/{subscription}").status_code == 200

    eventually(lambda: not is_there(short), message="it goes")
    desk.publish(kind, "2")
    # What waits for an endpoint that is away keeps its subscription: it is owed every attempt.
    assert is_there(queued)
    late.start()
    assert desk.dead_letter(queued)["code"] == "AttemptsExhausted"
    assert waiting.args == [["1"], ["1"]]
    assert notes.args == [["1"]]
    body = {"filter": {"exact": {"type": kind}}, "function_id": desk.function, "endpoint_id": desk.endpoint}
    for wrong in ("2020-01-01T00:00:00Z", "2090-01-01T00:00:00", "soon"):
        answer = desk.http.post("/api/v1/subscriptions", json={**body, "expires_at": wrong})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/expires_at")


def test_a_subscription_is_tried_on_an_event_before_it_is_made(
    service: RunningService, desk: EventsDesk, kind: str
) -> None:
    schema = {"properties": {"level": {"type": "number"}}, "required": ["level"], "additionalProperties": False}
    function = service.add_function("def f(level):\n    return level\n", input_schema={"type": "object", **schema})
    body = {
        "filter": {"exact": {"type": kind}},
        "function_id": function,
        "endpoint_id": desk.endpoint,
        "input": {"args": ["{{ event.data.level }}"]},
    }
    sample = {"type": kind, "source": "/s", "data": {"level": 2.5}}
    made = f"tried-{kind}"

    def post(path: str = "/validate", **more: object) -> tuple[int, dict[str, Any]]:
        answer = desk.http.post(f"/api/v1/subscriptions{path}", json={**body, "name": made, **more})
        return answer.status_code, answer.json()

    status, trial = post(sample=sample)
    assert (status, trial["arguments"], trial["endpoint_id"]) == (200, {"args": [2.5], "kwargs": {}}, desk.endpoint)
    assert (trial["sample"]["id"], trial["sample_made"], trial["doubts"]) == ("sample", False, [])
    # One that is made has no data, which is a doubt and no more.
    status, trial = post()
    assert (status, trial["sample"]["type"], trial["sample_made"], trial["arguments"]) == (200, kind, True, None)
    assert "level" in trial["doubts"][0] or "data" in trial["doubts"][0]
    status, trial = post(input={"kwargs": {"level": 3}})
    assert (status, trial["arguments"], trial["doubts"]) == (200, {"args": [], "kwargs": {"level": 3}}, [])
    for path in ("/validate", ""):
        for more, pointer in (
            ({"sample": {**sample, "type": "other"}}, "/sample"),
            ({"sample": {"type": kind}}, "/sample"),
            ({"sample": {**sample, "data": {}}}, "/input/args/0"),
            ({"sample": {**sample, "data": {"level": "high"}}}, "/input"),
            ({"input": {"kwargs": {"colour": 1}}}, "/input"),
            ({"input": {"args": [1, 2]}}, "/input/args"),
            ({"filter": {"exact": {}}}, "/filter/exact"),
        ):
            status, refusal = post(path, **more)
            assert (status, refusal["errors"][0]["pointer"]) == (422, pointer)
    assert made not in desk.http.get("/api/v1/subscriptions").text


def test_a_program_subscribes_by_keywords_tries_and_changes(
    service: RunningService, desk: EventsDesk, kind: str
) -> None:
    ends = datetime.now(UTC) + timedelta(days=1)
    fields: dict[str, Any] = {
        "filter": {"exact": {"type": kind}},
        "endpoint_id": UUID(desk.endpoint),
        "offline": {"hold_s": 5, "next_endpoints": (UUID(desk.endpoint),)},
        "input": {"args": ["{{ event.id }}"]},
    }
    with Client(service.url, service.token) as client:
        made = client.subscribe(UUID(desk.function), **fields, expires_at=ends, name=None)
        assert made["offline"]["next_endpoints"] == [desk.endpoint]
        assert datetime.fromisoformat(made["expires_at"]) == ends.replace(microsecond=ends.microsecond // 1000 * 1000)
        changed = client.change_subscription(
            made["subscription_id"], {"expires_at": None, "retry": {"max_attempts": 2}}
        )
        assert (changed["expires_at"], changed["retry"]["max_attempts"]) == (None, 2)
        trial = client.validate_subscription(
            {"function_id": desk.function, "endpoint_id": desk.endpoint, "filter": fields["filter"]}
        )
        assert (trial["sample"]["type"], trial["arguments"]["args"][0]["type"]) == (kind, kind)
        client.delete_subscription(made["subscription_id"])
