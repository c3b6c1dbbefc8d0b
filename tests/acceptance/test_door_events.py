"""Door 3, on a whole system: events run functions, once per attempt, and nothing is lost when processes are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from events_desk import NOTES, EventsDesk, Notes
from headrace_up import Up, headrace_up
from plain_http import NO_TLS
from waiting import eventually

SERVICE = "headrace.cli.main serve"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with headrace_up(tmp_path_factory.mktemp("up") / "home") as running:
        yield running


@pytest.fixture
def desk(up: Up, tmp_path: Path) -> Iterator[EventsDesk]:
    # A request may meet the moment between a killed service and the next one.
    transport = httpx.HTTPTransport(retries=10, verify=NO_TLS)
    headers = {"Authorization": f"Bearer {up.token}"}
    with httpx.Client(base_url=up.url, headers=headers, timeout=20, transport=transport, trust_env=False) as http:
        body = {"name": "note", "source": NOTES, "python_version": "3.11"}
        answer = http.post("/api/v1/functions", json=body)
        yield EventsDesk(http, tmp_path, answer.json()["function_id"], up.endpoint_id)


def kill_service(up: Up) -> None:
    os.kill(up.pid_of(SERVICE), signal.SIGKILL)


def publish_surely(desk: EventsDesk, kind: str, event_id: str) -> None:
    """As a careful publisher does: again, until it is answered. The event's id makes that safe."""

    def published() -> bool:
        try:
            return bool(desk.publish(kind, event_id))
        except httpx.HTTPError:
            return False

    eventually(published, 20, f"event {event_id} is published")


def test_an_event_runs_a_function_on_the_endpoint_with_rendered_arguments(desk: EventsDesk) -> None:
    notes = desk.notes()
    desk.subscribe(
        "org.example.weather.month",
        notes,
        "{{ event.data.max }}",
        kwargs={"label": "{{ event.subject | title }}, {{ event.id }}"},
        filter={"exact": {"type": "org.example.weather.month"}, "prefix": {"subject": "sea"}},
    )
    desk.publish("org.example.weather.month", "2026-01", subject="portland", data={"max": [1]})
    desk.publish("org.example.weather.month", "2026-02", subject="seattle", data={"max": [7.2, 8.9, 11]})
    assert notes.wait(1) == [[[7.2, 8.9, 11]]]
    assert notes.runs[0][2] == {"label": "Seattle, 2026-02"}


def test_a_doubled_event_has_one_effect(desk: EventsDesk) -> None:
    notes = desk.notes()
    desk.subscribe("doubled", notes)
    first = desk.publish("doubled", "1")
    assert desk.publish("doubled", "1") == {**first, "duplicate": True}
    desk.publish("doubled", "2")
    assert sorted(notes.wait(2)) == [["1"], ["2"]]


def test_a_failing_function_is_retried_with_back_off_and_ends_as_a_dead_letter(desk: EventsDesk) -> None:
    notes = desk.notes()
    retry = {"max_attempts": 3, "first_delay_s": 0.3, "factor": 3}
    subscription = desk.subscribe("failing", notes, kwargs={"fail": 99}, retry=retry)
    desk.publish("failing", "1", data={"whole": "event"})
    letter = desk.dead_letter(subscription, 20)
    assert letter["code"] == "AttemptsExhausted"
    assert letter["event"]["data"] == {"whole": "event"}
    assert [each["attempt"] for each in letter["attempts"]] == [1, 2, 3]
    assert [each["message"] for each in letter["attempts"]] == ["run 1 fails", "run 2 fails", "run 3 fails"]
    first, second, third = (time for time, _, _ in notes.runs)
    assert second - first >= 0.3
    assert third - second >= 0.9


def test_a_service_that_is_killed_in_the_middle_loses_nothing_and_repeats_nothing(up: Up, desk: EventsDesk) -> None:
    notes, failing = desk.notes(), desk.notes()
    desk.subscribe("killed", notes)
    given_up = desk.subscribe(
        "failing-too", failing, kwargs={"fail": 99}, retry={"max_attempts": 3, "first_delay_s": 0.5}
    )
    publish_surely(desk, "failing-too", "1")
    for number in range(60):
        if number in (20, 40):
            kill_service(up)
        publish_surely(desk, "killed", str(number))
    _whole(notes, 60)
    letter = desk.dead_letter(given_up, 30)
    assert [each["attempt"] for each in letter["attempts"]] == [1, 2, 3]
    assert failing.args == [["1"]] * 3


def test_a_bus_that_is_killed_in_the_middle_loses_nothing_and_repeats_nothing(up: Up, desk: EventsDesk) -> None:
    notes = desk.notes()
    desk.subscribe("bus-killed", notes)
    for number in range(40):
        if number == 20:
            os.kill(up.pid_of("nats-server"), signal.SIGKILL)
        publish_surely(desk, "bus-killed", str(number))
    _whole(notes, 40)


def _whole(notes: Notes, count: int) -> None:
    notes.wait(count, 40)
    assert sorted(notes.args, key=lambda args: int(args[0])) == [[str(number)] for number in range(count)]
