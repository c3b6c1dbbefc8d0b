"""Events as steps of workflows: publish one, wait for some. No pool is needed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from events_desk import CLOUDEVENT
from flow_client import when_ended
from plain_http import NO_TLS
from service import RunningService, running_service, serving
from waiting import eventually, let_pass

from headrace.action_provider.providers import WaitProvider
from headrace.bus.eventing import arrivals
from headrace.bus.store.actions import ActionRecord, Actions
from headrace.schemas import validate

PUBLISH = "/actions/events/publish"
WAIT = "/actions/events/wait"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service")) as running:
        yield running


def checked(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    """The status document of an answer."""
    assert answer.status_code in (statuses or (200,)), answer.text
    document: dict[str, Any] = answer.json()
    validate("action-status", document)
    return document


def refusal(answer: httpx.Response, status: int = 422) -> str:
    """The description of an error."""
    assert answer.status_code == status, answer.text
    validate("action-error", answer.json())
    return str(answer.json()["description"])


class Steps:
    """The steps of a flow that publish and wait. `kind` is a type of event of this test's own."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.kind = f"test.{uuid.uuid4().hex}"
        self._numbers = itertools.count(1)

    def run(self, provider: str, body: dict[str, Any], request_id: str = "", **more: Any) -> httpx.Response:
        request = {"request_id": request_id or uuid.uuid4().hex, "body": body, **more}
        return self.http.post(f"{provider}/run", json=request)

    def publish(self, **more: Any) -> dict[str, Any]:
        """Publish an event over the API; the service's answer."""
        number = next(self._numbers)
        event = {
            "id": str(number),
            "source": f"/{self.kind}",
            "specversion": "1.0",
            "type": self.kind,
            "data": number,
            **more,
        }
        answer = self.http.post("/api/v1/events", content=json.dumps(event), headers=CLOUDEVENT)
        assert answer.status_code == 202, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def wait(self, **body: Any) -> dict[str, Any]:
        """Begin to wait for events of this kind; the status document."""
        return checked(self.run(WAIT, {"filter": {"exact": {"type": self.kind}}, **body}), 202)

    def status(self, action: dict[str, Any]) -> dict[str, Any]:
        return checked(self.http.get(f"{WAIT}/{action['action_id']}/status"))

    def ended(self, action: dict[str, Any], within_s: float = 10.0) -> dict[str, Any]:
        return when_ended(lambda: self.status(action), within_s)


@pytest.fixture
def steps(service: RunningService) -> Steps:
    return Steps(service.http())


def record_of(service: RunningService, action: dict[str, Any]) -> ActionRecord:
    """The record of an action as it is stored: nobody asks a provider."""

    async def read(connection: Any) -> ActionRecord:
        found = await Actions(connection).by_id(action["action_id"])
        assert found is not None
        return found.value

    record: ActionRecord = service.bus(read)
    return record


def met_in_time(service: RunningService, steps: Steps, **body: Any) -> dict[str, Any]:
    """A wait of a second that an event met before its deadline: on a slow machine the event may come later, and then
    there is another wait."""

    def met() -> dict[str, Any] | None:
        waiting = steps.wait(timeout=1.0, **body)
        steps.publish()
        stored_by, deadline = time.time(), record_of(service, waiting).deadline
        assert deadline is not None
        return waiting if stored_by < deadline else None

    waiting = eventually(met, 20, "an event comes before a deadline")
    assert waiting is not None
    return waiting


def finished(action: dict[str, Any]) -> dict[str, Any] | None:
    """The action if it was over when its run was answered."""
    return None if action["status"] == "ACTIVE" else action


# Publish


def test_a_published_event_is_there_when_run_answers(steps: Steps) -> None:
    waiting = steps.wait()

    done = checked(steps.run(PUBLISH, {"type": steps.kind, "source": "/flow", "subject": "s", "data": {"x": [1]}}), 202)

    assert done["status"] == "SUCCEEDED"
    assert done["details"]["duplicate"] is False
    event = steps.ended(waiting)["details"]["event"]
    assert (event["source"], event["subject"], event["data"]) == ("/flow", "s", {"x": [1]})
    assert event["id"] == done["details"]["id"]
    assert event["id"].startswith(done["action_id"])


def test_a_repeated_run_publishes_one_event(steps: Steps) -> None:
    body = {"type": steps.kind, "source": "/flow"}
    waiting = steps.wait(count=2)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: steps.run(PUBLISH, body, steps.kind), range(8)))

    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    assert {answer.json()["details"]["sequence"] for answer in answers} == {answers[0].json()["details"]["sequence"]}
    eventually(lambda: steps.status(waiting)["details"]["events"], 5, "the event")
    steps.publish()
    assert [event["source"] for event in steps.ended(waiting)["details"]["events"]] == ["/flow", f"/{steps.kind}"]
    assert "other parameters" in refusal(steps.run(PUBLISH, {**body, "data": 1}, steps.kind), 409)


def test_an_event_with_an_id_of_its_own_is_stored_once(steps: Steps) -> None:
    body = {"type": steps.kind, "source": "/flow", "id": "e-1"}

    first, second = (checked(steps.run(PUBLISH, body), 202)["details"] for _ in range(2))

    assert (first["duplicate"], second["duplicate"]) == (False, True)
    assert first["sequence"] == second["sequence"]


def test_a_release_makes_room_for_another_event(steps: Steps) -> None:
    body = {"type": steps.kind, "source": "/flow"}
    first = checked(steps.run(PUBLISH, body, steps.kind), 202)
    checked(steps.http.post(f"{PUBLISH}/{first['action_id']}/release"))

    second = checked(steps.run(PUBLISH, body, steps.kind), 202)

    assert second["details"]["sequence"] > first["details"]["sequence"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"type": None}, "$.type"),
        ({"source": ""}, "$.source"),
        ({"time": "yesterday"}, "$.time"),
        ({"Extension": 1}, "Extension"),
        ({"data_base64": "!", "data": None}, "$.data_base64"),
    ],
)
def test_what_is_no_event_is_refused(steps: Steps, change: dict[str, Any], field: str) -> None:
    assert field in refusal(steps.run(PUBLISH, {"type": "t", "source": "/s", **change}))


def test_a_bus_that_is_not_there_is_refused(steps: Steps) -> None:
    assert "'$.bus'" in refusal(steps.run(PUBLISH, {"type": "t", "source": "/s", "bus": "other"}), 400)
    assert "'$.bus'" in refusal(steps.run(WAIT, {"filter": {"exact": {"type": "t"}}, "bus": "other"}), 400)


def test_an_event_that_is_too_large_is_refused(steps: Steps) -> None:
    assert "524288" in refusal(steps.run(PUBLISH, {"type": "t", "source": "/s", "data": "x" * 600_000}), 413)


def test_what_a_crash_left_undone_the_repetition_does(service: RunningService, steps: Steps) -> None:
    """As a service leaves it that dies between the record and the event."""
    body = {"type": steps.kind, "source": "/flow"}
    done = checked(steps.run(PUBLISH, body, steps.kind), 202)

    async def crash(connection: Any) -> None:
        actions = Actions(connection)
        found = await actions.by_id(done["action_id"])
        assert found is not None
        event = {"specversion": "1.0", "id": "left", "source": "/left", "type": steps.kind}
        left = {"status": "ACTIVE", "ended_at": None, "details": {"bus": "default", "event": event}}
        await actions.change(
            found, ActionRecord(**{**{f: getattr(found.value, f) for f in found.value.__struct_fields__}, **left})
        )

    service.bus(crash)
    waiting = steps.wait()

    again = checked(steps.run(PUBLISH, body, steps.kind), 200)

    assert again["status"] == "SUCCEEDED"
    assert steps.ended(waiting)["details"]["event"]["id"] == "left"


# Wait


def test_a_wait_ends_with_the_event_that_its_filter_lets_pass(steps: Steps) -> None:
    steps.publish(id="before")
    waiting = steps.wait()
    assert waiting["status"] == "ACTIVE"
    assert waiting["display_status"] == "Waits for an event"

    steps.publish(type=f"{steps.kind}.other")
    published = steps.publish(id="it")

    ended = steps.ended(waiting)
    assert ended["status"] == "SUCCEEDED"
    assert ended["details"]["event"]["id"] == "it"
    assert ended["details"]["sequences"] == [published["sequence"]]
    log = steps.http.get(f"{WAIT}/{waiting['action_id']}/log").json()["entries"]
    assert [entry["code"] for entry in log] == ["ActionStarted", "EventFound", "ActionSucceeded"]


@pytest.mark.parametrize(
    "asked",
    [{"pattern": {"data": {"kelvin": [{"numeric": [">", 300]}]}}}, {"sql": "subject = 'hot'"}],
    ids=["pattern", "sql"],
)
def test_a_wait_has_every_language_of_filters(steps: Steps, asked: dict[str, Any]) -> None:
    waiting = steps.wait(filter=[{"exact": {"type": steps.kind}}, asked])
    steps.publish(subject="cold", data={"kelvin": 4})
    steps.publish(subject="hot", data={"kelvin": 301})

    assert steps.ended(waiting)["details"]["event"]["subject"] == "hot"


def test_a_wait_ends_though_nobody_asks(service: RunningService, steps: Steps) -> None:
    waiting = steps.wait()
    steps.publish()

    eventually(lambda: record_of(service, waiting).status == "SUCCEEDED", 10, "the end is written")


def test_a_wait_for_several_shows_what_has_come(steps: Steps) -> None:
    waiting = steps.wait(count=3)
    ids = [steps.publish()["id"] for _ in range(2)]

    eventually(lambda: len(steps.status(waiting)["details"]["events"]) == 2, 5, "two events")
    assert steps.status(waiting)["display_status"] == "2 of 3 events came"
    ids.append(steps.publish()["id"])
    steps.publish()

    assert [event["id"] for event in steps.ended(waiting)["details"]["events"]] == ids


def test_one_wait_after_the_other_misses_nothing_and_sees_nothing_twice(steps: Steps) -> None:
    with ThreadPoolExecutor(4) as threads:
        first = steps.wait()
        list(threads.map(lambda n: steps.publish(id=f"e{n}"), range(12)))
    seen, since = [], None
    action = first
    for _ in range(12):
        ended = steps.ended(action)
        assert ended["status"] == "SUCCEEDED", ended
        seen.append(ended["details"]["event"]["id"])
        since = ended["details"]["last_sequence"]
        action = steps.wait(since=since)

    assert sorted(seen) == sorted(f"e{n}" for n in range(12))
    assert action["status"] == "ACTIVE"
    steps.http.post(f"{WAIT}/{action['action_id']}/cancel")


@pytest.mark.parametrize(
    "since",
    [
        lambda _sequence: "earliest",
        lambda sequence: sequence - 1,
        lambda _sequence: (datetime.now(UTC) - timedelta(minutes=5)).isoformat(),
    ],
    ids=["earliest", "sequence", "time"],
)
def test_a_wait_may_begin_in_the_past_and_is_then_answered_at_once(steps: Steps, since: Callable[[int], Any]) -> None:
    sequence = steps.publish(id="past")["sequence"]

    waiting = eventually(lambda: finished(steps.wait(since=since(sequence))), 10, "it is answered at once")

    assert waiting is not None
    assert waiting["status"] == "SUCCEEDED"
    assert waiting["details"]["event"]["id"] == "past"


def test_a_time_after_the_event_leaves_it_out(steps: Steps) -> None:
    steps.publish()
    now = datetime.now(UTC).isoformat()

    waiting = steps.wait(since=now)

    assert waiting["status"] == "ACTIVE"
    assert steps.publish()["id"] == steps.ended(waiting)["details"]["event"]["id"]


def test_a_deadline_ends_a_wait_though_nobody_asks(service: RunningService, steps: Steps) -> None:
    waiting = met_in_time(service, steps, count=2)

    eventually(lambda: record_of(service, waiting).status == "FAILED", 10, "the end is written")

    ended = steps.status(waiting)
    assert ended["details"]["code"] == "DeadlineExceeded"
    assert "1 of 2 events" in ended["details"]["description"]
    assert len(ended["details"]["events"]) == 1


def test_a_cancelled_wait_has_failed_and_stays_so(service: RunningService, steps: Steps) -> None:
    waiting = steps.wait()

    cancelled = checked(steps.http.post(f"{WAIT}/{waiting['action_id']}/cancel"))
    steps.publish()
    other = eventually(lambda: finished(steps.wait(since="earliest")), 10, "it is answered at once")

    assert other is not None
    assert other["status"] == "SUCCEEDED"
    assert cancelled["details"]["code"] == "Cancelled"
    assert steps.status(waiting) == cancelled
    assert checked(steps.http.post(f"{WAIT}/{waiting['action_id']}/release"))["status"] == "FAILED"


def test_equal_requests_wait_once(steps: Steps) -> None:
    body = {"filter": {"exact": {"type": steps.kind}}}

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: steps.run(WAIT, body, steps.kind), range(8)))

    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    assert len({answer.json()["action_id"] for answer in answers}) == 1
    steps.publish()
    assert steps.ended(answers[0].json())["status"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "$.filter"),
        ({"filter": {"exact": {"Type": "t"}}}, "$.filter.exact.Type"),
        ({"filter": {"like": {}}}, "$.filter.like"),
        ({"filter": {"exact": {"type": "t"}}, "count": 0}, "$.count"),
        ({"filter": {"exact": {"type": "t"}}, "count": 101}, "$.count"),
        ({"filter": {"exact": {"type": "t"}}, "since": "now-ish"}, "$.since"),
        ({"filter": {"exact": {"type": "t"}}, "since": "2999-01-01T00:00:00Z"}, "$.since"),
        ({"filter": {"exact": {"type": "t"}}, "timeout": "an hour"}, "$.timeout"),
        ({"filter": {"exact": {"type": "t"}}, "timeout": 0}, "$.timeout"),
        ({"filter": {"exact": {"type": "t"}}, "until": 5}, "until"),
    ],
)
def test_what_cannot_be_waited_for_is_refused(steps: Steps, body: dict[str, Any], field: str) -> None:
    assert field in refusal(steps.run(WAIT, body))


def test_data_that_is_too_large_for_a_flow_is_left_out(steps: Steps) -> None:
    waiting = steps.wait(count=3)
    sequences = [steps.publish(data="x" * size)["sequence"] for size in (50_000, 50_000, 10)]

    details = steps.ended(waiting)["details"]

    assert ["data" in event for event in details["events"]] == [True, False, True]
    assert details["data_left_out"] == [sequences[1]]
    assert len(json.dumps(details)) < 140_000


def test_many_wait_at_once_and_each_gets_its_event(steps: Steps) -> None:
    kinds = [f"{steps.kind}.{n}" for n in range(40)]
    with ThreadPoolExecutor(8) as threads:
        waiting = list(threads.map(lambda kind: steps.wait(filter={"exact": {"type": kind}}), kinds))
        list(threads.map(lambda kind: steps.publish(type=kind, subject=kind), kinds))

    assert [steps.ended(action)["details"]["event"]["subject"] for action in waiting] == kinds


def test_introspection_of_both(service: RunningService) -> None:
    for path, synchronous in ((PUBLISH, True), (WAIT, False)):
        document = service.http("").get(path).json()
        validate("provider-description", document)
        assert document["synchronous"] is synchronous
        assert document["input_schema"]["properties"]["bus"]


# Services come and go


@pytest.fixture
def restarted(tmp_path: Path) -> Iterator[RunningService]:
    with running_service(tmp_path) as running:
        yield running


def test_a_wait_outlives_the_service(restarted: RunningService) -> None:
    steps = Steps(restarted.http())
    late = met_in_time(restarted, steps)
    waiting, other = steps.wait(count=2), steps.wait()
    first = steps.publish()["id"]
    eventually(lambda: steps.status(waiting)["details"]["events"], 5, "the first event")
    assert steps.ended(other)["status"] == "SUCCEEDED"
    # An end is there when no dispatcher is: these two only end afterwards.
    late_too = steps.wait(timeout=1.0)
    restarted.stop_serving()
    let_pass(1.0, until="the deadlines have passed")
    restarted.serve_again()
    steps = Steps(restarted.http())
    steps.kind = record_of(restarted, waiting).wait.filter["exact"]["type"]  # type: ignore[union-attr]  # it waits
    second = steps.publish(id="second")["id"]

    assert [event["id"] for event in steps.ended(waiting)["details"]["events"]] == [first, second]
    assert steps.ended(late)["status"] == "SUCCEEDED"
    eventually(lambda: record_of(restarted, late_too).status == "FAILED", 10, "the end is written")


def test_a_wait_that_a_crash_left_to_nobody_is_found_by_whoever_looks(
    restarted: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a service leaves it that dies between the action's record and telling those who look at events."""

    async def nobody(*_: Any) -> None:
        return

    with monkeypatch.context() as dying:
        dying.setattr(WaitProvider, "_attend", nobody)
        steps = Steps(restarted.http())
        waiting = steps.wait()

    assert steps.status(waiting)["status"] == "ACTIVE"
    steps.publish()

    assert steps.ended(waiting)["status"] == "SUCCEEDED"


def test_two_services_serve_the_same_waits(restarted: RunningService) -> None:
    settings = dataclasses.replace(restarted.settings, port=0)
    with serving(restarted.loop, settings) as url:
        here = Steps(restarted.http())
        with httpx.Client(
            base_url=url, headers=here.http.headers, timeout=20.0, trust_env=False, verify=NO_TLS
        ) as other:
            there = Steps(other)
            there.kind = here.kind
            waiting = [here.wait(count=5), there.wait(count=5), here.wait(), there.wait()]
            ids = [(here if n % 2 else there).publish(id=f"e{n}")["id"] for n in range(5)]

            ended = [step.ended(action) for action, step in zip(waiting, (there, here, there, here), strict=True)]

    found = [[event["id"] for event in action["details"]["events"]] for action in ended]
    assert found == [ids, ids, ids[:1], ids[:1]]


def test_a_wait_that_looks_far_back_takes_pages(
    service: RunningService, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "PAGE", 3)
    for _ in range(10):
        steps.publish()

    waiting = steps.wait(since="earliest", count=10)

    ended = steps.ended(waiting)
    assert len(ended["details"]["events"]) == 10
