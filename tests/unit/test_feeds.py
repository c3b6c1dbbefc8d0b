"""Feeds: events from messages."""

from __future__ import annotations

import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.action_provider.api.feeds import _overlap
from headrace.bus.errors import DecodeError, EventRefused, InputFailed
from headrace.bus.eventing.bindings import to_binary
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.feeds.models import DataForm, FeedRecord, FeedShape
from headrace.bus.eventing.feeds.shaping import FeedMessage, Shaper
from headrace.bus.eventing.nats_binding import of_binding
from headrace.schemas import SchemaViolation

_TOKENS = st.lists(st.sampled_from(["a", "b", "*", ">"]), min_size=1, max_size=4).filter(lambda ts: ">" not in ts[:-1])


def shaper(**shape: str) -> Shaper:
    feed = FeedRecord(
        feed_id=uuid.UUID(int=7),
        name="f",
        owner="urn:headrace:user:ada",
        created_at=0.0,
        urls=("nats://x",),
        subjects=("a.>",),
        shape=FeedShape(**shape),  # type: ignore[arg-type]  # texts that are among the literals
    )
    return Shaper(feed)


def message(data: bytes = b"{}", **headers: str) -> FeedMessage:
    return FeedMessage(subject="a.b", headers=headers, data=data, stored_at=1e9, origin="S@1", sequence=3)


def fits(pattern: list[str], subject: list[str]) -> bool:
    if pattern[-1] == ">":
        return len(subject) >= len(pattern) and fits_exactly(pattern[:-1], subject[: len(pattern) - 1])
    return fits_exactly(pattern, subject)


def fits_exactly(pattern: list[str], subject: list[str]) -> bool:
    return len(pattern) == len(subject) and all(
        mine in ("*", theirs) for mine, theirs in zip(pattern, subject, strict=True)
    )


@given(_TOKENS, _TOKENS, st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=5))
def test_two_patterns_that_fit_one_subject_overlap(one: list[str], other: list[str], subject: list[str]) -> None:
    assert _overlap(one, other) == _overlap(other, one)
    if fits(one, subject) and fits(other, subject):
        assert _overlap(one, other)


def test_a_message_of_a_stream_has_the_same_event_whenever_it_comes() -> None:
    event = shaper().event(message())
    assert event.document == shaper().event(message()).document
    assert (event.id, event.source, event.attributes["subject"]) == ("S@1:3", f"/feeds/{uuid.UUID(int=7)}", "a.b")
    assert event.attributes["time"] == "2001-09-09T01:46:40Z"


@pytest.mark.parametrize(
    ("form", "body", "key", "value"),
    [
        ("auto", b'{"x": 1}', "data", {"x": 1}),
        ("auto", b"\xff", "data_base64", "/w=="),
        ("json", b"[1]", "data", [1]),
        ("text", "ä".encode(), "data", "ä"),
        ("base64", b"{}", "data_base64", "e30="),
    ],
)
def test_bodies_are_read_as_asked(form: DataForm, body: bytes, key: str, value: object) -> None:
    assert shaper(data=form).event(message(body)).document[key] == value


def test_what_cannot_be_an_event_says_so() -> None:
    for shape, body, error in (
        ({"data": "json"}, b"{", DecodeError),
        ({"data": "text"}, b"\xff", DecodeError),
        ({"type": "{{ message.data.missing }}"}, b"{}", InputFailed),
        ({"source": "has space"}, b"{}", SchemaViolation),
        ({"form": "cloudevents"}, b"{}", EventRefused),
        ({}, b"x" * 600_000, EventRefused),
    ):
        with pytest.raises(error):
            shaper(**shape).event(message(body))


def test_both_modes_of_the_nats_binding_give_the_event_that_was_sent() -> None:
    event = CloudEvent.of_document(
        {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "subject": "ä s", "data": "hi"}
        | {"datacontenttype": "text/plain"}
    )
    headers, body = to_binary(event)
    # In the NATS binding the content type of the data is an attribute like the others.
    headers = {**headers, "ce-datacontenttype": headers.pop("content-type")}
    assert of_binding(headers, body).document == event.document
    structured = {"content-type": "application/cloudevents+json; charset=utf-8"}
    assert of_binding(structured, event.encode()).document == event.document
    for refused in ({"content-type": "application/cloudevents-batch+json"}, {"content-type": "application/json"}):
        with pytest.raises(EventRefused):
            of_binding(refused, b"[]")
    with pytest.raises(SchemaViolation):
        of_binding({name: value for name, value in headers.items() if name != "ce-id"}, body)
    with pytest.raises(DecodeError):
        of_binding(structured, json.dumps(event.document).encode()[:-1])
