"""Action requests: durations, digests, and texts of refusals."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.action_provider.errors import InvalidRequest
from headrace.action_provider.providers.requests import ActionRequest, check_body, duration_s, duration_text
from headrace.schemas import SchemaViolation, validate

SMALLEST: dict[str, Any] = {"request_id": "r", "body": {}}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("P30D", 30 * 86_400),
        ("PT1H", 3600),
        ("P1Y2M3W4DT5H6M7S", 365 * 86_400 + 60 * 86_400 + 21 * 86_400 + 4 * 86_400 + 5 * 3600 + 6 * 60 + 7),
        ("PT0.5S", 0.5),
        ("P1.5D", 129_600),
    ],
)
def test_iso_durations_are_understood(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@given(st.one_of(st.integers(0, 10**9), st.floats(0, 10**7).map(lambda value: round(value, 6))))
def test_seconds_come_back_as_a_duration_of_the_same_length(seconds: float) -> None:
    text = duration_text(seconds)

    validate("action-duration", text)
    assert duration_s(text) == pytest.approx(seconds, abs=1e-6)


@given(st.text(string.ascii_uppercase + string.digits + ".PT", max_size=12))
def test_whatever_the_schema_lets_through_has_a_length(text: str) -> None:
    try:
        validate("action-duration", text)
    except SchemaViolation:
        if text.isdecimal() and len(text) <= 11:
            assert ActionRequest.read({**SMALLEST, "release_after": text}).release_after_s == int(text)
            return
        with pytest.raises(InvalidRequest, match="release_after"):
            ActionRequest.read({**SMALLEST, "release_after": text})
    else:
        assert ActionRequest.read({**SMALLEST, "release_after": text}).release_after_s >= 0


def test_equal_requests_have_equal_digests() -> None:
    one = ActionRequest.read({**SMALLEST, "label": None, "tags": ["a"], "monitor_by": []})
    other = ActionRequest.read({"body": {}, "request_id": "r"})
    assert one.digest == other.digest


@pytest.mark.parametrize(
    "change", [{"body": {"a": 1}}, {"label": "l"}, {"deadline": "2999-01-01"}, {"release_after": 5}]
)
def test_any_difference_changes_the_digest(change: dict[str, Any]) -> None:
    assert ActionRequest.read(SMALLEST).digest != ActionRequest.read({**SMALLEST, **change}).digest


def test_a_number_is_a_request_id_and_the_same_as_its_text() -> None:
    assert ActionRequest.read({**SMALLEST, "request_id": 0}).request_id == "0"


def test_a_refusal_does_not_repeat_a_large_value() -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_body("compute-body", {"endpoint_id": "x" * 100_000, "tasks": "y" * 100_000})

    assert len(refused.value.detail) < 1000
    assert "Field '$.tasks' (category: 'type')" in refused.value.detail
