"""Paths into a flow's state: what they find, what they refuse, and what is put where they lead."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.sdk.flows import PathInvalid, PathMissing
from headrace.sdk.flows.paths import Field, Index, Path

STATE: dict[str, Any] = {
    "a": {"b": [{"c": 1}, {"c": 2}, {"d": 3}], "x y": "spaced", "it's": 5},
    "list": [10, 20, 30, 40],
    "null": None,
    "kebab-case": 7,
    "ünï": 8,
}

FOUND = {
    "$": STATE,
    "$.a.b[0].c": 1,
    "$.a.b[-1].d": 3,
    "$['a']['x y']": "spaced",
    '$["a"]["x y"]': "spaced",
    "$.a['it\\'s']": 5,
    "$.a.['x y']": "spaced",
    "$.null": None,
    "$.kebab-case": 7,
    "$.ünï": 8,
    "$.list[ 1 ]": 20,
    # Those that may find many give lists.
    "$.list[*]": [10, 20, 30, 40],
    "$.list[1:3]": [20, 30],
    "$.list[:-2]": [10, 20],
    "$.list[::2]": [10, 30],
    "$.list[0, -1]": [10, 40],
    "$.a.b[*].c": [1, 2],
    "$..c": [1, 2],
    "$.a['x y', 'it\\'s']": ["spaced", 5],
    "$.nothing[*]": [],
    "$.a.b[*].nothing": [],
}

MISSING = ["$.b", "$.a.b[3]", "$.a.b[-4]", "$.list.a", "$.a[0]", "$.null.x", "$.a.b.c"]

INVALID = {
    "": "begins with '$'",
    "a.b": "begins with '$'",
    "$a": "character 2: here a '.' or a '['",
    "$.": "character 3: a name is missing",
    "$.a..": "a name is missing",
    "$.a b": "character 4",
    "$.a[": "between brackets",
    "$.a[0": "a ']' is missing",
    "$.a['b]": "between brackets",
    "$.a[?(@.b > 1)]": "filters are not taken",
    "$.a[::0]": "steps of 0",
    "$.a[b]": "between brackets",
    "$." + "a" * 5000: "at most 4096",
}


@pytest.mark.parametrize("text", FOUND)
def test_a_path_finds(text: str) -> None:
    assert Path.parse(text).find(STATE) == FOUND[text]


@pytest.mark.parametrize("text", MISSING)
def test_a_reference_that_leads_nowhere_is_missing(text: str) -> None:
    with pytest.raises(PathMissing):
        Path.parse(text).find(STATE)


@pytest.mark.parametrize("text", INVALID)
def test_a_mistake_is_told_with_its_place(text: str) -> None:
    with pytest.raises(PathInvalid) as caught:
        Path.parse(text)

    assert INVALID[text] in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("$", 0),
        ("$.new", {"a": [1, {"b": 2}], "new": 0}),
        ("$.a[0]", {"a": [0, {"b": 2}]}),
        ("$.a[-1].b", {"a": [1, {"b": 0}]}),
        ("$.x.y.z", {"a": [1, {"b": 2}], "x": {"y": {"z": 0}}}),
        ("$['x y']", {"a": [1, {"b": 2}], "x y": 0}),
    ],
)
def test_a_value_is_put_and_the_old_state_stays(text: str, after: Any) -> None:
    state = {"a": [1, {"b": 2}]}

    assert Path.parse(text).put(state, 0) == after
    assert state == {"a": [1, {"b": 2}]}


@pytest.mark.parametrize("text", ["$.a.b", "$.a[2]", "$.text.x", "$.text[0]", "$[0]"])
def test_nothing_is_put_through_what_is_in_the_way(text: str) -> None:
    with pytest.raises(PathMissing) as caught:
        Path.parse(text).put({"a": [1, 2], "text": "t"}, 0)

    assert text in str(caught.value)


def written(steps: tuple[Field | Index, ...]) -> str:
    """A path with these steps."""
    quoted = [
        "["
        + ("'" + s.name.replace("\\", "\\\\").replace("'", "\\'") + "'" if isinstance(s, Field) else str(s.number))
        + "]"
        for s in steps
    ]
    return "$" + "".join(quoted)


STEPS = st.lists(st.builds(Field, st.text(max_size=8)) | st.builds(Index, st.integers(-3, 3)), max_size=5).map(tuple)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(STEPS)
def test_what_was_written_is_read(steps: tuple[Field | Index, ...]) -> None:
    path = Path.parse(written(steps))

    assert path.steps == steps
    assert path.is_reference


@given(STEPS, JSON, JSON)
def test_what_was_put_is_found_and_nothing_else_changes(
    steps: tuple[Field | Index, ...], state: Any, value: Any
) -> None:
    path, before = Path.parse(written(steps)), copy.deepcopy(state)
    try:
        after = path.put(state, value)
    except PathMissing:
        after = None
    else:
        assert path.find(after) == value

    assert json.dumps(state) == json.dumps(before)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        path = Path.parse("$" + text)
    except PathInvalid:
        return
    with contextlib.suppress(PathMissing):
        path.find(STATE)
