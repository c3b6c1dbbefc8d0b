"""Event patterns mean what aws/event-ruler 2.0 says they mean; the extended dialect means more."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import DecodeError, InvalidPattern
from headrace.bus.filters import EventPattern

CASES = Path(__file__).parents[1] / "fixtures" / "filters"
ROWS = [json.loads(line) for line in (CASES / "event_patterns.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=[f"{n}-{row['note']}" for n, row in enumerate(ROWS)])
def test_a_pattern_agrees_with_the_reference(row: dict[str, Any]) -> None:
    if not row["strict_valid"]:
        with pytest.raises(InvalidPattern):
            EventPattern(row["pattern_text"])
    elif "error" in row:
        with pytest.raises(DecodeError):
            EventPattern(row["pattern_text"]).matches(row["event_text"])
    else:
        assert EventPattern(row["pattern_text"]).matches(row["event_text"]) is row["match"]


def test_generated_patterns_agree_with_the_reference_as_text_and_as_objects() -> None:
    with gzip.open(CASES / "event_patterns_generated.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    wrong = [
        row["id"]
        for row in rows
        if EventPattern(row["pattern"]).matches(row["event"]) is not row["match"]
        or EventPattern(json.dumps(row["pattern"])).matches(json.dumps(row["event"])) is not row["match"]
    ]

    assert len(rows) == 2000
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "pointer", "line", "column", "problem"),
    [
        ('{"a": [1}', "/a", 1, 9, "','"),
        ('{\n  "a": {"b": 5}\n}', "/a/b", 2, 14, "array"),
        ('{"a": [{"prefx": "x"}]}', "/a/0", 1, 8, "unknown operator 'prefx'"),
        ('{"a": [{"numeric": [">", 5, "<", 1]}]}', "/a/0/numeric", 1, 20, "less than its top"),
        ('{"a": ["x", {"wildcard": "a**"}]}', "/a/1/wildcard", 1, 26, "two asterisks"),
        ('{"a/b": []}', "/a~1b", 1, 9, "empty array"),
        ('{"a": [1]} x', "", 1, 12, "nothing may come after"),
        ('{"a": [NaN]}', "/a/0", 1, 8, "JSON value"),
        ("", "", 1, 1, "too early"),
        ("[]", "", 1, 1, "object"),
    ],
)
def test_an_invalid_pattern_is_refused_with_its_place(
    text: str, pointer: str, line: int, column: int, problem: str
) -> None:
    with pytest.raises(InvalidPattern, match=problem) as caught:
        EventPattern(text)

    assert (caught.value.pointer, caught.value.line, caught.value.column) == (pointer, line, column)


def test_a_pattern_that_is_a_dict_is_refused_with_its_pointer() -> None:
    with pytest.raises(InvalidPattern) as caught:
        EventPattern({"a": [{"exists": "yes"}]})
    assert (caught.value.pointer, caught.value.line) == ("/a/0/exists", None)

    with pytest.raises(InvalidPattern, match="set"):
        EventPattern({"a": [{1, 2}]})


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ({f"f{n}": [1] for n in range(257)}, "256 fields"),
        ({f"d{n}": {"$or": [{"a": [1]}, {"b": [1]}]} for n in range(10)}, "1000 combinations"),
        ('{"a": ["' + "x" * 20_000 + '"]}', "16384 characters"),
        ('{"a":' * 40 + "[1]" + "}" * 40, "deep"),
    ],
)
def test_a_pattern_has_limits(pattern: Any, problem: str) -> None:
    with pytest.raises(InvalidPattern, match=problem):
        EventPattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "event", "expected"),
    [
        ({"tags": [{"all-of": ["a", "b"]}]}, {"tags": ["b", "x", "a"]}, True),
        ({"tags": [{"all-of": ["a", "b"]}]}, {"tags": ["a", "x"]}, False),
        ({"tags": [{"all-of": [{"prefix": "a"}, {"suffix": "z"}]}]}, {"tags": ["az"]}, True),
        ({"tags": [{"all-of": ["a"]}]}, {"tags": "a"}, True),
        ({"tags": [{"all-of": ["a"]}]}, {}, False),
        ({"tags": [{"none-of": ["a", "b"]}]}, {"tags": ["c", "d"]}, True),
        ({"tags": [{"none-of": ["a", "b"]}]}, {"tags": ["c", "a"]}, False),
        ({"tags": [{"none-of": ["a"]}]}, {}, False),
        ({"tags": [{"array-length": [">", 2]}]}, {"tags": [1, 2, 3]}, True),
        ({"tags": [{"array-length": ["=", 0]}]}, {"tags": []}, True),
        ({"tags": [{"array-length": ["=", 1]}]}, {"tags": "one"}, False),
        (
            {"f": {"tags": [{"array-length": ["=", 2]}], "n": [1]}},
            {"f": [{"tags": [1], "n": 1}, {"tags": [1, 2]}]},
            False,
        ),
        ({"f": {"tags": [{"array-length": ["=", 2]}], "n": [1]}}, {"f": [{"tags": [1, 2], "n": 1}, {"n": 1}]}, True),
        ({"f": {"tags": [{"all-of": [1, 2]}], "n": [1]}}, {"f": [{"tags": [1, 2]}, {"tags": [1], "n": 1}]}, False),
        ('{"n": [{"numeric": ["=", 9007199254740993]}]}', '{"n": 9007199254740993}', True),
        ('{"n": [{"numeric": ["=", 9007199254740993]}]}', '{"n": 9007199254740992}', False),
        ('{"n": [{"numeric": [">", 0.1]}]}', '{"n": 0.1000000000000000000001}', True),
        ('{"n": [1E400]}', '{"n": 1.0E+400}', True),
        ({"ip": [{"cidr": "10.0.0.1/32"}]}, {"ip": "10.0.0.1"}, True),
        ({"ip": [{"cidr": "0.0.0.0/0"}]}, {"ip": "2001:db8::1"}, False),
        ({"ip": [{"cidr": "0.0.0.0/0"}]}, {"ip": 5}, False),
        ({"ip": [{"cidr": "2001:db8::/128"}]}, {"ip": "2001:0db8:0::"}, True),
    ],
)
def test_the_extended_dialect_knows_arrays_addresses_and_decimals(pattern: Any, event: Any, expected: bool) -> None:
    assert EventPattern(pattern, dialect="extended").matches(event) is expected


def test_the_operators_of_the_extended_dialect_are_unknown_to_eventbridge() -> None:
    with pytest.raises(InvalidPattern, match="unknown operator 'all-of'"):
        EventPattern({"tags": [{"all-of": ["a"]}]})


def test_an_explanation_names_each_field_and_what_the_event_has() -> None:
    pattern = EventPattern({"type": ["done"], "data": {"n": [{"numeric": [">", 3]}], "x": [{"exists": True}]}})

    explained = pattern.explain({"type": "done", "data": {"n": 2}}, "/pattern")

    assert not explained.passed
    assert [(part.pointer, part.passed, part.found) for part in explained.parts] == [
        ("/pattern/data/n", False, "[2]"),
        ("/pattern/data/x", False, "no value at data.x"),
        ("/pattern/type", True, '["done"]'),
    ]


def test_an_explanation_tells_of_fields_that_lie_in_different_elements() -> None:
    pattern = EventPattern({"f": {"a": [1], "b": [2]}})

    explained = pattern.explain({"f": [{"a": 1}, {"b": 2}]})

    assert not explained.passed
    assert all(part.passed for part in explained.parts)
    assert "one and the same element" in explained.clause


_SCALARS = st.sampled_from(["a", "ab", "b", 1, 2.5, True, None])
_LEAVES = st.sampled_from(
    [
        "a",
        1,
        True,
        None,
        {"prefix": "a"},
        {"exists": True},
        {"exists": False},
        {"anything-but": "a"},
        {"numeric": [">", 1]},
    ]
)
_PATTERNS = st.recursive(
    st.lists(_LEAVES, min_size=1, max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("xyz"), inner, min_size=1, max_size=3),
    max_leaves=5,
).filter(lambda pattern: isinstance(pattern, dict))
_EVENTS = st.dictionaries(
    st.sampled_from("xyz"),
    st.recursive(
        _SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=3,
)


@given(_PATTERNS, _EVENTS)
def test_an_explanation_passes_what_the_pattern_passes(pattern: Any, event: Any) -> None:
    compiled = EventPattern(pattern)

    assert compiled.explain(event).passed is compiled.matches(event)
    assert EventPattern(json.dumps(pattern)).matches(json.dumps(event)) is compiled.matches(event)


@given(_PATTERNS, _EVENTS)
def test_the_dialects_agree_on_what_both_of_them_know(pattern: Any, event: Any) -> None:
    assert EventPattern(pattern, dialect="extended").matches(event) is EventPattern(pattern).matches(event)


@pytest.mark.parametrize(
    ("pattern", "event"),
    [
        ({"a": [{"wildcard": "*a*a*a*a*a*a*b"}]}, {"a": "a" * 200_000}),
        ({"a": [{"suffix": {"equals-ignore-case": "a" * 2000 + "b"}}]}, {"a": "a" * 200_000}),
        ({"f": {"a": [1], "b": [2], "c": [3]}}, {"f": [{"a": 1, "b": 2} for _ in range(20_000)]}),
        ({"f": {"g": {"a": [1], "b": [1]}}}, {"f": [{"g": [{"a": 1}, {"b": 1}] * 50} for _ in range(100)]}),
        ({"a": {"x": [1]}, "b": {"y": [1]}, "c": {"z": [2]}}, {k: [{"x": 1, "y": 1, "z": 1}] * 3000 for k in "abc"}),
    ],
)
def test_no_event_takes_a_pattern_long(pattern: Any, event: Any) -> None:
    # What grew with the square of these events would take minutes: longer than a test may.
    assert not EventPattern(pattern).matches(event)
