"""What the service reads: strict JSON, and durations."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.action_provider.bodies import parse_json
from headrace.action_provider.errors import InvalidRequest, MalformedRequest
from headrace.action_provider.http import parse_wait
from headrace.action_provider.protocol import PROTOCOL, check_protocol

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@given(JSON, st.booleans())
def test_what_json_can_say_is_read_as_it_was_said(document: object, as_ascii: bool) -> None:
    assert parse_json(json.dumps(document, ensure_ascii=as_ascii).encode()) == document


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_refused(body: bytes) -> None:
    try:
        parse_json(body)
    except MalformedRequest:
        return


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf{}", b' \n{"a": "\\ud83d\\ude00"}\n'])
def test_a_mark_of_byte_order_and_whole_surrogate_pairs_are_fine(body: bytes) -> None:
    parse_json(body)


@pytest.mark.parametrize(
    ("wanted", "seconds"),
    [("5", 5), ("5s", 5), ("500ms", 0.5), ("1m", 60), ("0", 0), ("1.5 s", 1.5), (2, 2), (0.25, 0.25), (" 3s ", 3)],
)
def test_a_wait_has_several_forms(wanted: object, seconds: float) -> None:
    assert math.isclose(parse_wait(wanted), seconds)


@pytest.mark.parametrize("wanted", ["", "s", "-1", "5h", "nan", "inf", "1e3", "5 5", -1, True, None, [], "9" * 20])
def test_anything_else_is_no_wait(wanted: object) -> None:
    with pytest.raises(InvalidRequest, match="not a duration"):
        parse_wait(wanted)


@pytest.mark.parametrize("body", [{}, {"protocol": PROTOCOL}, {"protocol": "1"}, [], None, {"protocol": True}])
def test_a_fitting_protocol_or_none_is_left_to_the_schema(body: object) -> None:
    check_protocol(body)
