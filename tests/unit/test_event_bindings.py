"""CloudEvents as messages with headers: what goes out comes back, and nothing is invented."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import DecodeError, EventRefused
from headrace.bus.eventing.bindings import decode_header, encode_header, mode_of, read_batch, read_event, to_binary
from headrace.bus.eventing.events import CloudEvent, _surely_fits
from headrace.schemas import SchemaViolation, validate

HEADERS = {"ce-id": "1", "ce-source": "/s", "ce-specversion": "1.0", "ce-type": "t"}
EVENT = {"id": "1", "source": "/s", "specversion": "1.0", "type": "t"}


def binary(headers: dict[str, str], body: bytes = b"", content_type: str = "") -> dict[str, Any]:
    return dict(read_event(content_type, {**HEADERS, **headers}, body, json.loads).document)


@pytest.mark.parametrize(
    ("content_type", "mode"),
    [
        ("application/cloudevents+json", "structured"),
        ("Application/CloudEvents+JSON; charset=UTF-8", "structured"),
        ("application/cloudevents", "structured"),
        ("application/cloudevents-batch+json", "batch"),
        ("APPLICATION/CLOUDEVENTS-BATCH+json;charset=utf-8", "batch"),
        ("application/json", "binary"),
        ("", "binary"),
    ],
)
def test_the_content_type_says_which_mode_it_is(content_type: str, mode: str) -> None:
    assert mode_of(content_type) == mode


@pytest.mark.parametrize(
    "content_type",
    [
        "application/cloudevents+xml",
        "application/cloudevents-batch+avro",
        "application/cloudevents+json; charset=latin-1",
    ],
)
def test_a_form_that_is_not_read_is_refused(content_type: str) -> None:
    with pytest.raises(EventRefused):
        mode_of(content_type)


def test_headers_beside_a_structured_event_mean_nothing() -> None:
    event = read_event("application/cloudevents+json", {"ce-id": "other"}, json.dumps(EVENT).encode(), json.loads)

    assert event.id == "1"


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("application/json", b'{"a": 1}', {"datacontenttype": "application/json", "data": {"a": 1}}),
        (
            "application/geo+json; charset=utf-8",
            b"null",
            {"datacontenttype": "application/geo+json; charset=utf-8", "data": None},
        ),
        ("text/plain", "grün".encode(), {"datacontenttype": "text/plain", "data": "grün"}),
        ("text/plain", b"\xff", {"datacontenttype": "text/plain", "data_base64": "/w=="}),
        (
            "image/png",
            b"\x89PNG",
            {"datacontenttype": "image/png", "data_base64": base64.b64encode(b"\x89PNG").decode()},
        ),
        ("", b"", {}),
        ("", b"x", {"data_base64": "eA=="}),
    ],
)
def test_the_body_of_the_binary_form_is_the_data(content_type: str, body: bytes, expected: dict[str, Any]) -> None:
    assert binary({}, body, content_type) == {**EVENT, **expected}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("100%", "100%"),
        ("%zz", "%zz"),
        ('"with \\"quotes\\" and %20"', 'with "quotes" and  '),
        ("a%2520b", "a%20b"),
    ],
)
def test_a_headers_value_is_unquoted_and_decoded_once(value: str, text: str) -> None:
    assert decode_header(value) == text
    assert binary({"CE-Subject": value})["subject"] == text


@pytest.mark.parametrize("value", ["%ff", "%C3", "a%E2%82"])
def test_what_is_not_utf8_is_refused_with_its_attribute(value: str) -> None:
    with pytest.raises(DecodeError):
        decode_header(value)
    with pytest.raises(SchemaViolation) as caught:
        binary({"ce-subject": value})
    assert [each.pointer for each in caught.value.violations] == ["/subject"]


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_any_text_goes_through_a_header(text: str) -> None:
    value = encode_header(text)

    assert value.isascii()
    assert not set(value) & set(' "')
    assert decode_header(value) == text


@pytest.mark.parametrize("missing", ["ce-id", "ce-source", "ce-specversion", "ce-type"])
def test_nothing_that_is_missing_is_invented(missing: str) -> None:
    headers = {name: value for name, value in HEADERS.items() if name != missing}

    with pytest.raises(SchemaViolation, match=missing.removeprefix("ce-")):
        read_event("application/json", headers, b"1", json.loads)


def test_a_message_without_any_attribute_is_no_event() -> None:
    with pytest.raises(EventRefused, match="ce-id"):
        read_event("application/json", {"host": "x"}, b"{}", json.loads)


@pytest.mark.parametrize("header", ["ce-my_ext", "ce-data", "ce-"])
def test_a_header_that_is_no_attribute_is_refused(header: str) -> None:
    with pytest.raises(EventRefused):
        binary({header: "x"})


def test_a_batch_is_refused_with_the_positions_of_what_is_wrong() -> None:
    batch = [EVENT, {**EVENT, "id": ""}, {**EVENT, "time": "now"}, {"id": "1"}]

    with pytest.raises(SchemaViolation) as caught:
        read_batch(json.dumps(batch).encode(), json.loads)

    assert {each.pointer.split("/")[1] for each in caught.value.violations} == {"1", "2", "3"}
    assert "/2/time" in {each.pointer for each in caught.value.violations}


@pytest.mark.parametrize("body", [b"{}", json.dumps([EVENT] * 1001).encode()])
def test_a_batch_is_an_array_of_at_most_a_thousand(body: bytes) -> None:
    with pytest.raises(EventRefused):
        read_batch(body, json.loads)


_DATA = st.one_of(
    st.just({}),
    st.builds(lambda data: {"data": data}, st.recursive(st.integers() | st.text() | st.none(), st.lists, max_leaves=3)),
    st.builds(lambda data: {"data": data, "datacontenttype": "application/json"}, st.text() | st.integers()),
    st.builds(
        lambda data: {"data": data, "datacontenttype": "text/plain"}, st.text(st.characters(codec="utf-8"), min_size=1)
    ),
    st.builds(
        lambda data: {"data_base64": base64.b64encode(data).decode(), "datacontenttype": "image/png"},
        st.binary(min_size=1),
    ),
)


@given(_DATA, st.text(st.characters(min_codepoint=32, exclude_categories=["Cc", "Cs", "Cn"]), min_size=1))
def test_what_goes_out_in_the_binary_form_comes_back(data: dict[str, Any], subject: str) -> None:
    event = CloudEvent.of_document({**EVENT, "subject": subject, "flag": True, "number": 5, **data})

    headers, body = to_binary(event)
    back = read_event(headers.get("content-type", ""), headers, body, json.loads).document

    # Types of extensions and the implied type of JSON are what this form cannot tell.
    expected = {**event.document, "flag": "true", "number": "5"}
    if "data" in data:
        expected.setdefault("datacontenttype", "application/json")
    assert back == expected


_VALUES = st.one_of(
    st.text(max_size=3), st.integers(-(2**33), 2**33), st.booleans(), st.none(), st.floats(), st.just([])
)
_DOCUMENTS = st.dictionaries(
    st.sampled_from(
        [
            "id",
            "source",
            "type",
            "specversion",
            "subject",
            "time",
            "datacontenttype",
            "dataschema",
            "data",
            "data_base64",
            "ext",
            "Ext",
            "a_b",
            "",
        ]
    ),
    _VALUES | st.sampled_from(["1.0", "text/plain", "text/plain; x=1", "a/b\n"]),
).map(lambda some: {**EVENT, **some})


@given(st.one_of(_DOCUMENTS, _VALUES))
def test_what_is_seen_at_a_glance_to_fit_satisfies_the_schema(document: Any) -> None:
    if _surely_fits(document):
        validate("event", document)
