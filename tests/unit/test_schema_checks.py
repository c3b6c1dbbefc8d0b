"""The quick checks of schemas say what `jsonschema` says, of whatever document."""

from __future__ import annotations

import string
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.schemas import schema, schema_names, validate
from headrace.schemas.errors import SchemaViolation
from headrace.schemas.quick import Unsure, check_of
from headrace.schemas.validator import _quick_check, _validator

CHECKED = [name for name in schema_names() if _quick_check(name) is not None]

texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", "public", "P30D", "PT5M", "urn:headrace:user:ada", "user", "2026-11-23T10:00:00Z", "0" * 64]),
    st.builds(str, st.builds(uuid.uuid4)),
    st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=70),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-3, 2**40), st.floats(allow_nan=False), texts)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)


def near(part: Any, depth: int = 0) -> st.SearchStrategy[Any]:  # noqa: PLR0911  # one for each kind of schema
    """Documents that mostly satisfy a schema, and sometimes do not."""
    if not isinstance(part, dict) or depth > 5:
        return anything
    if "$ref" in part:
        return near(schema(part["$ref"].removesuffix(".json")), depth + 1)
    for keyword in ("anyOf", "oneOf"):
        if keyword in part:
            return st.one_of(anything, *(near(each, depth + 1) for each in part[keyword]))
    if "enum" in part:
        return st.sampled_from(part["enum"]) | scalars
    if "const" in part:
        return st.just(part["const"]) | scalars
    if "properties" in part:
        members = {name: near(each, depth + 1) for name, each in part["properties"].items()}
        required = {name: each for name, each in members.items() if name in part.get("required", ())}
        optional = {name: each for name, each in members.items() if name not in required}
        whole = st.fixed_dictionaries(required, optional=optional)
        return st.one_of(whole, whole, whole, anything)
    if "items" in part:
        return st.one_of(st.lists(near(part["items"], depth + 1), max_size=3), anything)
    return anything


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(CHECKED), data=st.data())
def test_a_quick_check_says_what_the_library_says(name: str, data: st.DataObject) -> None:
    document = data.draw(near(schema(name)))
    check = _quick_check(name)
    assert check is not None

    try:
        said = check(document)
    except Unsure:
        return

    assert said == _validator(name).is_valid(document), document


@pytest.mark.parametrize(
    "keywords",
    [
        {"type": "integer"},
        {"type": ["number", "null"], "minimum": 1, "exclusiveMaximum": 10},
        {"minLength": 2, "maxLength": 4, "pattern": "^[a-z]+$"},
        {"enum": ["a", None]},
        {"items": {"type": "string"}, "minItems": 1, "maxItems": 2, "uniqueItems": True},
        {"properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False},
        {"propertyNames": {"maxLength": 2}, "minProperties": 1, "additionalProperties": {"type": "integer"}},
        {"if": {"type": "string"}, "then": {"minLength": 2}, "else": {"type": "integer"}},
        {"not": {"type": "null"}, "oneOf": [{"type": "integer"}, {"type": "number"}, {"minLength": 1}]},
        {"anyOf": [{"type": "null"}, {"format": "uuid"}]},
    ],
    ids="-".join,
)
@settings(max_examples=50, deadline=None)
@given(document=anything)
def test_each_keyword_means_what_it_means_to_the_library(keywords: dict[str, Any], document: Any) -> None:
    import jsonschema

    formats = jsonschema.Draft202012Validator.FORMAT_CHECKER
    library = jsonschema.Draft202012Validator(keywords, format_checker=formats)
    check = check_of(keywords, find=schema, fits=formats.conforms)

    try:
        said = check(document)
    except Unsure:
        return

    assert said == library.is_valid(document)


def test_a_schema_with_another_keyword_is_left_to_the_library() -> None:
    with pytest.raises(Unsure):
        check_of({"contains": {"type": "string"}}, find=schema, fits=lambda *_: True)


def test_what_is_refused_is_told_in_the_words_of_the_library() -> None:
    with pytest.raises(SchemaViolation) as caught:
        validate("compute-body", {"endpoint_id": "x", "tasks": []})

    assert [each.keyword for each in caught.value.violations] == ["format", "minItems"]


def test_the_bodies_of_the_hot_paths_are_checked_quickly() -> None:
    assert {"action-request", "compute-body", "task-submission"} <= set(CHECKED)
