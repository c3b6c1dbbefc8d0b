"""Schemas that users give: what is taken, and that checking a document by them always ends soon."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.schemas import SchemaViolation, check_given, validate_against, validate_given

TEXT = {"type": "object", "properties": {"x": {"type": "string"}}}


def problems(description: Any) -> list[tuple[str, str]]:
    with pytest.raises(SchemaViolation) as refused:
        check_given(description, name="input_schema")
    return [(violation.pointer, violation.problem) for violation in refused.value.violations]


def refused(description: dict[str, Any], document: Any) -> str:
    check_given(description, name="s")
    with pytest.raises(SchemaViolation) as violation:
        validate_given(description, document, name="s")
    return str(violation.value)


@pytest.mark.parametrize(
    ("description", "pointer", "problem"),
    [
        ([], "", "a JSON object"),
        ({"type": "array"}, "/type", "must be 'object'"),
        ({"type": "object", "properties": {"x": {"type": "integr"}}}, "/properties/x/type", "integr"),
        ({"properties": {"x": {"$ref": "https://example.org/x"}}}, "/properties/x/$ref", "not in this schema"),
        ({"properties": {"x": {"$ref": "#/$defs/x"}}}, "/properties/x/$ref", "not in this schema"),
        ({"unevaluatedProperties": False}, "/unevaluatedProperties", "without"),
        ({"properties": {"x": {"pattern": "("}}}, "/properties/x/pattern", "not a regular expression"),
        ({"properties": {"x": {"pattern": "^(a|a)*$"}}}, "/properties/x/pattern", "too long"),
        ({"properties": {"x": {"pattern": "^(a+)+$"}}}, "/properties/x/pattern", "too long"),
        ({"properties": {"x": {"pattern": "^(a?){30}a{30}$"}}}, "/properties/x/pattern", "too long"),
        ({"properties": {"x": {"pattern": "(?m)^a*b*$"}}}, "/properties/x/pattern", "too long"),
        ({"properties": {"x": {"pattern": r"^(a)\1$"}}}, "/properties/x/pattern", "too long"),
        ({"patternProperties": {"(.*a){20}": {}}}, "/patternProperties", "too long"),
        ({"description": "x" * 40_000}, "", "bytes"),
    ],
)
def test_what_cannot_be_a_schema_is_refused_with_its_place(description: Any, pointer: str, problem: str) -> None:
    found = problems(description)

    assert found[0][0] == pointer
    assert problem in found[0][1]


def test_deep_schemas_are_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"items": deep}

    assert "deep" in problems({"properties": {"x": deep}})[0][1]


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\d{4}-\d{2}-\d{2}$",
        r"^[a-z]+-[0-9]+$",
        r"^(https?|ftp)://[^\s]+$",
        r"^[A-Za-z0-9_-]{1,64}$",
        r"\.(csv|nc|h5)$",
        r"^run-\d+\.(csv|txt)$",
        "^$",
    ],
)
def test_patterns_as_people_write_them_are_taken(pattern: str) -> None:
    check_given({"properties": {"x": {"type": "string", "pattern": pattern}}}, name="s")


@given(st.text(alphabet="ab().*+?{}|[]^$\\12,-", max_size=20))
def test_a_pattern_that_is_taken_comes_to_an_end(pattern: str) -> None:
    """One that backtracks without end would take longer than a test may."""
    description = {"properties": {"x": {"pattern": pattern}}}
    try:
        check_given(description, name="s")
    except SchemaViolation:
        return
    for text in ("a" * 1000, "ab" * 500, "a" * 999 + "c"):
        try:
            validate_given(description, {"x": text}, name="s")
        except SchemaViolation:
            continue


def test_properties_may_be_named_like_keywords() -> None:
    check_given({"properties": {"$ref": {"type": "string"}, "pattern": {}}}, name="s")


def test_a_schema_may_refer_to_its_own_parts() -> None:
    description = {
        "properties": {"x": {"$ref": "#/$defs/deep/anyOf/0"}, "tree": {"$ref": "#/$defs/tree"}},
        "$defs": {
            "deep": {"anyOf": [{"type": "integer"}]},
            "tree": {"type": "object", "additionalProperties": {"$ref": "#/$defs/tree"}},
        },
    }
    check_given(description, name="s")

    validate_given(description, {"x": 1, "tree": {"a": {"b": {}}}}, name="s")
    assert "/tree/a" in refused(description, {"tree": {"a": 1}})


def test_a_schema_that_explodes_is_stopped() -> None:
    description: dict[str, Any] = {"$defs": {"d0": {"type": "integer"}}, "properties": {"x": {"$ref": "#/$defs/d30"}}}
    for n in range(1, 31):
        description["$defs"][f"d{n}"] = {"allOf": [{"$ref": f"#/$defs/d{n - 1}"}] * 2}

    assert "too long" in refused(description, {"x": 1})


def test_a_long_list_is_no_reason_to_stop() -> None:
    description = {"properties": {"x": {"items": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "null"}]}}}}

    validate_given(description, {"x": [1] * 20_000}, name="s")


def test_a_schema_that_is_itself_is_stopped() -> None:
    assert "too long" in refused({"$ref": "#"}, {})


def test_long_texts_do_not_meet_patterns() -> None:
    assert "characters" in refused({"properties": {"x": {"pattern": "^a*$"}}}, {"x": "a" * 5000})
    validate_given(TEXT, {"x": "a" * 5000}, name="s")


@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, "a", "1"]),
            lambda inner: st.lists(inner, max_size=2),
            max_leaves=3,
        ),
        max_size=5,
    )
)
def test_unique_items_are_what_the_library_says(items: list[Any]) -> None:
    description = {"properties": {"x": {"uniqueItems": True}}}

    def fits(check: Any) -> bool:
        try:
            check(description, {"x": items}, name="s")
        except SchemaViolation:
            return False
        return True

    assert fits(validate_given) == fits(validate_against)
