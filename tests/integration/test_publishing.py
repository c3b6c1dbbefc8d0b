"""Events over HTTP in all three modes, and from the SDK: stored when the answer comes, each once."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from service import RunningService

from headrace.sdk import Client, RequestRefused

STRUCTURED = {"Content-Type": "Application/CloudEvents+JSON; charset=UTF-8"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}


def event(**more: Any) -> dict[str, Any]:
    return {"id": uuid.uuid4().hex, "source": "/s", "specversion": "1.0", "type": "t", **more}


def test_a_structured_event_is_stored_once(service: RunningService) -> None:
    http, body = service.http(), json.dumps(event())

    first = http.post("/api/v1/events", content=body, headers=STRUCTURED)
    again = http.post("/api/v1/events", content=body, headers=STRUCTURED)

    assert (first.status_code, first.json()["duplicate"]) == (202, False)
    assert again.json() == {**first.json(), "duplicate": True}


def test_a_binary_event_has_its_attributes_in_headers(service: RunningService) -> None:
    name = uuid.uuid4().hex
    headers = {"ce-id": name, "ce-source": "/s", "ce-specversion": "1.0", "ce-type": "t", "Content-Type": "text/plain"}

    answer = service.http().post("/api/v1/events", content="hello", headers=headers)

    assert (answer.status_code, answer.json()["id"]) == (202, name)


def test_a_batch_is_stored_in_its_order_and_says_what_was_there(service: RunningService) -> None:
    http, batch = service.http(), [event(data=number) for number in range(20)]

    stored = http.post("/api/v1/events", content=json.dumps(batch), headers=BATCH).json()["events"]
    again = http.post("/api/v1/events", content=json.dumps([*batch[5:], batch[5], event()]), headers=BATCH).json()[
        "events"
    ]

    places = [each["sequence"] for each in stored]
    assert [each["id"] for each in stored] == [each["id"] for each in batch]
    assert places == list(range(places[0], places[0] + 20))
    assert not any(each["duplicate"] for each in stored)
    assert [each["sequence"] for each in again[:16]] == [*places[5:], places[5]]
    assert [each["duplicate"] for each in again] == [True] * 16 + [False]


def test_an_event_twice_in_a_batch_is_stored_once(service: RunningService) -> None:
    twice = event()

    answer = service.http().post("/api/v1/events", content=json.dumps([twice, event(), twice]), headers=BATCH)

    first, _, last = answer.json()["events"]
    assert (first["sequence"], first["duplicate"], last["duplicate"]) == (last["sequence"], False, True)


def test_a_batch_with_something_wrong_stores_nothing(service: RunningService) -> None:
    http, good = service.http(), event()

    refused = http.post("/api/v1/events", content=json.dumps([good, event(time="now")]), headers=BATCH)
    stored = http.post("/api/v1/events", content=json.dumps([good]), headers=BATCH)

    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/1/time")
    assert stored.json()["events"][0]["duplicate"] is False
    assert http.post("/api/v1/events", content="[]", headers=BATCH).json() == {"events": []}


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        ("{", STRUCTURED, 400),
        ("", STRUCTURED, 400),
        ("{}", BATCH, 400),
        ("{}", {"Content-Type": "application/json"}, 415),
        ("{}", {"Content-Type": ""}, 415),
        ("<x/>", {"Content-Type": "application/cloudevents+xml"}, 415),
        (json.dumps(event(data="x" * 600_000)), STRUCTURED, 413),
        (json.dumps(event(time="now")), STRUCTURED, 422),
    ],
)
def test_what_is_no_event_is_refused(
    service: RunningService, content: str, headers: dict[str, str], status: int
) -> None:
    assert service.http().post("/api/v1/events", content=content, headers=headers).status_code == status


def test_a_client_publishes_many_events_at_once(client: Client) -> None:
    kind = f"test.{uuid.uuid4().hex}"

    published = client.publish_batch({"type": kind, "source": "/s", "data": number} for number in range(2_500))

    assert len({each["sequence"] for each in published}) == 2_500
    assert [each["sequence"] for each in published] == sorted(each["sequence"] for each in published)
    assert client.publish_batch([]) == []
    with pytest.raises(RequestRefused):
        client.publish_batch([{"type": "", "source": "/s"}])
