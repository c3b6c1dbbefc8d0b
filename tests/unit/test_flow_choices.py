"""The rules of a Choice state: every test with what is true, what is false, and what is of another type."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.sdk.flows import StateFailed
from headrace.sdk.flows.choices import TESTS, holds, matches
from headrace.sdk.flows.states import chosen

EARLY, LATE = "2026-05-01T12:00:00Z", "2026-05-01T16:00:00+02:00"
OTHERS: dict[str, Any] = {
    "text": "abc",
    "number": 5,
    "real": 5.5,
    "truth": True,
    "null": None,
    "list": [],
    "object": {},
    "moment": EARLY,
}
"""A value of each type."""

ORDERED = {
    # test: (variable, true against, false against)
    "Equals": (1, [1], [0, 2]),
    "LessThan": (1, [2], [0, 1]),
    "LessThanEquals": (1, [1, 2], [0]),
    "GreaterThan": (1, [0], [1, 2]),
    "GreaterThanEquals": (1, [0, 1], [2]),
}
SCALES: dict[str, list[Any]] = {
    "String": ["a", "b", "ba"],
    "Numeric": [-1, 0.5, 7],
    "Timestamp": ["2026-05-01T11:59:59.5Z", EARLY, LATE],
}
OF_TYPE = {
    "String": {"text", "moment"},
    "Numeric": {"number", "real"},
    "Timestamp": {"moment"},
    "Boolean": {"truth"},
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("order", ORDERED)
def test_an_order_is_true_where_it_holds(scale: str, order: str) -> None:
    variable, true, false = ORDERED[order]
    values = SCALES[scale]
    for others, expected in ((true, True), (false, False)):
        for other in others:
            state = {"v": values[variable], "w": values[other]}
            assert holds({"Variable": "$.v", f"{scale}{order}": values[other]}, state) is expected
            assert holds({"Variable": "$.v", f"{scale}{order}Path": "$.w"}, state) is expected


@pytest.mark.parametrize("scale", OF_TYPE)
@pytest.mark.parametrize("kind", OTHERS)
def test_a_value_of_another_type_is_false(scale: str, kind: str) -> None:
    wanted = True if scale == "Boolean" else SCALES[scale][0]
    same = {"Variable": "$.v", f"{scale}EqualsPath": "$.v"}

    assert holds(same, {"v": OTHERS[kind]}) is (kind in OF_TYPE[scale])
    if kind not in OF_TYPE[scale]:
        assert not holds({"Variable": "$.v", f"{scale}Equals": wanted}, {"v": OTHERS[kind]})
        assert not holds({"Variable": "$.v", f"{scale}EqualsPath": "$.w"}, {"v": wanted, "w": OTHERS[kind]})


@pytest.mark.parametrize(
    ("test", "true"),
    {
        "IsNull": {"null"},
        "IsNumeric": {"number", "real"},
        "IsString": {"text", "moment"},
        "IsBoolean": {"truth"},
        "IsTimestamp": {"moment"},
        "IsPresent": set(OTHERS),
    }.items(),
)
def test_a_test_of_kind_is_true_for_its_kind(test: str, true: set[str]) -> None:
    for kind, value in OTHERS.items():
        assert holds({"Variable": "$.v", test: True}, {"v": value}) is (kind in true)
        assert holds({"Variable": "$.v", test: False}, {"v": value}) is (kind not in true)


@pytest.mark.parametrize("test", [name for name in TESTS if name != "IsPresent"])
def test_a_variable_that_is_not_there_is_an_exception(test: str) -> None:
    wanted: Any = "$.w" if test.endswith("Path") else True
    with pytest.raises(StateFailed) as caught:
        holds({"Variable": "$.v", test: wanted}, {"w": 1})

    assert caught.value.name == "States.Runtime"
    assert "The path '$.v' specified for the field 'Variable' could not be found" in str(caught.value)


def test_only_presence_may_be_asked_of_what_is_not_there() -> None:
    assert not holds({"Variable": "$.v", "IsPresent": True}, {})
    assert holds({"Variable": "$.v", "IsPresent": False}, {})
    assert not holds({"Variable": "$.v[*].x", "IsPresent": True}, {"v": [{}]})


def test_a_path_of_a_test_that_leads_nowhere_is_an_exception() -> None:
    with pytest.raises(StateFailed, match="NumericEqualsPath"):
        holds({"Variable": "$.v", "NumericEqualsPath": "$.w"}, {"v": 1})


def test_rules_are_combined() -> None:
    one, two = {"Variable": "$.v", "NumericEquals": 1}, {"Variable": "$.v", "IsNumeric": True}

    assert holds({"And": [one, two]}, {"v": 1})
    assert not holds({"And": [one, two]}, {"v": 2})
    assert holds({"Or": [one, two]}, {"v": 2})
    assert not holds({"Not": {"Or": [one, two]}}, {"v": 2})
    # The second rule's variable is not looked at where the first decides.
    assert holds({"Or": [two, {"Variable": "$.w", "IsNull": True}]}, {"v": 2})


def test_the_first_rule_that_is_true_says_what_follows() -> None:
    rules = [
        {"Variable": "$.v", "NumericGreaterThan": 5, "Next": "Large"},
        {"Variable": "$.v", "IsNumeric": True, "Next": "Any"},
    ]

    assert chosen({"Choices": rules}, {"v": 6}) == "Large"
    assert chosen({"Choices": rules}, {"v": 1}) == "Any"
    assert chosen({"Choices": rules, "Default": "Else"}, {"v": "x"}) == "Else"
    with pytest.raises(StateFailed) as caught:
        chosen({"Choices": rules}, {"v": "x"})
    assert caught.value.name == "States.NoChoiceMatched"


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("abc", "abc", True),
        ("abc", "abcd", False),
        ("*.txt", "a.txt", True),
        ("*.txt", ".txt", True),
        ("*.txt", "a.txt.gz", False),
        ("a*c*e", "abcde", True),
        ("a*c*e", "ae", False),
        ("*", "", True),
        ("ab*ba", "aba", False),
        (r"2\*3", "2*3", True),
        (r"2\*3", "2x3", False),
        (r"a\\*", "a\\b", True),
        ("", "", True),
        ("", "a", False),
    ],
)
def test_a_pattern_fits(pattern: str, text: str, fits: bool) -> None:
    assert matches(pattern, text) is fits
    assert holds({"Variable": "$.v", "StringMatches": pattern}, {"v": text}) is fits


def test_a_pattern_fits_texts_only() -> None:
    assert not holds({"Variable": "$.v", "StringMatches": "*"}, {"v": 5})


@given(st.lists(st.text("ab", max_size=3), min_size=1, max_size=5), st.lists(st.text("ab", max_size=3), max_size=5))
def test_a_text_fits_the_pattern_that_it_was_made_of(pieces: list[str], between: list[str]) -> None:
    text = pieces[0]
    for number, piece in enumerate(pieces[1:]):
        text += (between[number] if number < len(between) else "") + piece

    assert matches("*".join(pieces), text)


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    assert not matches("*a" * 2000 + "b", "a" * 50_000)
