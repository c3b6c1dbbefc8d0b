"""CloudEvents are read strictly, and nothing is invented."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import DecodeError, PayloadTooLarge
from headrace.bus.eventing.events import CloudEvent, attribute_texts, message_id
from headrace.bus.names import event_subject
from headrace.schemas import SchemaViolation

LEAST = {"id": "1", "source": "/s", "specversion": "1.0", "type": "org.example.x"}


def event(**more: Any) -> CloudEvent:
    return CloudEvent.of_document({**LEAST, **more})


def pointers(**more: Any) -> list[str]:
    with pytest.raises(SchemaViolation) as caught:
        event(**more)
    return [violation.pointer for violation in caught.value.violations]


def test_an_event_comes_back_from_the_store_as_it_was_published() -> None:
    published = event(
        subject="seattle",
        time="2026-02-28T12:30:00Z",
        datacontenttype="application/json",
        data={"deep": [1, 2.5, None, "ü"], "big": 2**70},
        partitionkey="k",
        count=3,
        urgent=True,
    )
    assert CloudEvent.of_stored(published.encode()) == published


@pytest.mark.parametrize("missing", sorted(LEAST))
def test_a_required_attribute_that_is_missing_is_not_invented(missing: str) -> None:
    with pytest.raises(SchemaViolation, match=missing):
        CloudEvent.of_document({name: value for name, value in LEAST.items() if name != missing})


@pytest.mark.parametrize(
    ("pointer", "more"),
    [
        ("/id", {"id": ""}),
        ("/id", {"id": 5}),
        ("/source", {"source": "a b"}),
        ("/specversion", {"specversion": "0.3"}),
        ("/type", {"type": "x" * 513}),
        ("/type", {"type": "a\nb"}),
        ("/subject", {"subject": ""}),
        ("/time", {"time": "yesterday"}),
        ("/time", {"time": "2026-02-30T00:00:00Z"}),
        ("/time", {"time": "2026-02-28 12:00:00"}),
        ("/time", {"time": "2026-02-28T12:00:00"}),
        ("/dataschema", {"dataschema": "no-scheme"}),
        ("/datacontenttype", {"datacontenttype": "json"}),
        ("/data_base64", {"data_base64": "???"}),
        ("/data_base64", {"data": 1, "data_base64": "AAAA"}),
        ("/ext", {"ext": {"not": "a scalar"}}),
        ("/ext", {"ext": [1]}),
        ("/ext", {"ext": 1.5}),
        ("/ext", {"ext": 2**31}),
    ],
)
def test_a_wrong_value_is_named(pointer: str, more: dict[str, Any]) -> None:
    assert pointer in pointers(**more)


@pytest.mark.parametrize("name", ["Upper", "with-dash", "with_underscore", "x" * 21, "", "ünicode"])
def test_the_name_of_an_extension_is_checked(name: str) -> None:
    with pytest.raises(SchemaViolation):
        event(**{name: "x"})


@pytest.mark.parametrize(
    "time",
    [
        "2026-02-28T12:30:00Z",
        "2026-02-28t12:30:00z",
        "2026-02-28T12:30:00.123456789+05:30",
        "2016-12-31T23:59:60Z",
        "1937-01-01T12:00:27.87+00:20",
    ],
)
def test_every_form_of_rfc_3339_is_taken(time: str) -> None:
    assert event(time=time).attributes["time"] == time


def test_a_null_attribute_is_one_that_is_not_set_but_null_data_is_data() -> None:
    read = event(subject=None, data=None)
    assert "subject" not in read.attributes
    assert read.document["data"] is None


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(DecodeError):
        CloudEvent.decode(b"{")
    with pytest.raises(SchemaViolation):
        CloudEvent.decode(b"[]")


def test_an_event_that_is_too_large_is_refused_with_the_limit() -> None:
    with pytest.raises(PayloadTooLarge, match="1000 bytes"):
        CloudEvent.decode(json.dumps({**LEAST, "data": "x" * 1000}).encode(), limit=1000)


def test_attributes_are_compared_as_text() -> None:
    texts = attribute_texts(event(flag=True, number=-3))
    assert (texts["flag"], texts["number"]) == ("true", "-3")


def test_the_same_event_has_the_same_message_id_and_others_have_others() -> None:
    one, data = event(), event(data=1)
    assert message_id(one, "default") == message_id(data, "default")
    others = [event(id="2"), event(source="/t"), event(id="1/", source="s")]
    assert len({message_id(each, "default") for each in [one, *others]} | {message_id(one, "other")}) == 5


@given(st.text(min_size=1, max_size=100))
def test_any_type_is_a_safe_subject(kind: str) -> None:
    subject = event_subject("default", kind)
    assert subject.startswith("event.default.")
    assert all(subject.split("."))
    assert not set(subject) & set("*> \t\r\n")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(_JSON)
def test_any_data_comes_back(data: Any) -> None:
    assert CloudEvent.of_stored(event(data=data).encode()).document["data"] == data
