"""Filters tried before they are switched on: explained on one event, and on the events of the past."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from service import RunningService

from headrace.sdk import Client, NotFound, RequestRefused


def pattern(kind: str) -> dict[str, Any]:
    return {"pattern": {"type": [kind], "data": {"level": [{"numeric": [">", 3]}]}}}


def test_an_event_is_explained_clause_by_clause(client: Client, kind: str) -> None:
    answer = client.explain_filter(pattern(kind), {"type": kind, "source": "/s", "data": {"level": 2}})

    clauses = {part["pointer"]: (part["passed"], part["found"]) for part in answer["explanation"]["parts"]}
    assert clauses == {"/pattern/data/level": (False, "[2]"), "/pattern/type": (True, f'["{kind}"]')}
    assert (answer["passed"], answer["arguments"]) == (False, None)


def test_a_stored_event_is_explained_by_its_sequence(client: Client, kind: str) -> None:
    stored = client.publish({"type": kind, "source": "/s", "data": {"level": 5}})

    answer = client.explain_filter({"sql": f"type = '{kind}'"}, stored["sequence"])

    assert answer["passed"]
    assert answer["event"]["id"] == stored["id"]
    assert answer["arguments"]["args"][0]["data"] == {"level": 5}
    with pytest.raises(NotFound):
        client.explain_filter({"sql": "true"}, stored["sequence"] + 1_000_000)


def test_an_input_that_does_not_fit_is_told(service: RunningService, kind: str) -> None:
    body = {
        "filter": {"exact": {"type": kind}},
        "input": {"args": ["{{ event.data.nothere }}"]},
        "event": {"id": "1", "source": "/s", "specversion": "1.0", "type": kind, "data": {}},
    }

    answer = service.http().post("/api/v1/filters/explain", json=body).json()

    assert answer["passed"]
    assert "nothere" in answer["input_error"]


def test_a_filter_is_tried_on_the_events_of_the_past(client: Client, kind: str) -> None:
    client.publish_batch({"type": kind, "source": "/s", "data": {"level": level}} for level in range(10))

    found = client.backtest_filter(pattern(kind), samples=2)

    assert found["matched"] == 6
    assert found["scanned"] >= 10
    assert [each["event"]["data"]["level"] for each in found["samples"]] == [4, 5]
    assert client.backtest_filter(pattern(kind), since=datetime.now(UTC) - timedelta(seconds=0.001))["matched"] in (
        0,
        6,
    )


def test_a_trial_says_what_is_wrong_with_it(service: RunningService, client: Client, kind: str) -> None:
    post = service.http().post
    event = {"id": "1", "source": "/s", "specversion": "1.0", "type": kind}

    both = post("/api/v1/filters/explain", json={"event": event})
    neither = post("/api/v1/filters/explain", json={"filter": {"sql": "true"}})
    invalid = post("/api/v1/filters/explain", json={"filter": {"pattern": {"a": "x"}}, "event": event})
    tomorrow = post("/api/v1/filters/backtest", json={"filter": {"sql": "true"}, "since": "2999-01-01T00:00:00Z"})

    assert [(each.status_code, each.json()["errors"][0]["pointer"]) for each in (both, neither, invalid, tomorrow)] == [
        (422, "/filter"),
        (422, "/event"),
        (422, "/filter/pattern/a"),
        (422, "/since"),
    ]
    with pytest.raises(NotFound):
        client.explain_filter(uuid.uuid4(), event)
    with pytest.raises(RequestRefused):
        client.backtest_filter({"sql": "("})
