"""The JSON schemas: each is one, each says what it is, and each is strict where it must be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from headrace.action_provider.app import OPERATIONS
from headrace.schemas import SchemaViolation, check_schema, schema, schema_names, validate, validate_against

BODIES = sorted({o.request_schema for o in OPERATIONS if o.request_schema})
FILES = {f"{name}.json" for name in schema_names()}


def parts(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for value in part.values():
            yield from parts(value)
    elif isinstance(part, list):
        for value in part:
            yield from parts(value)


@pytest.mark.parametrize("name", schema_names())
def test_every_file_is_a_schema_with_a_title(name: str) -> None:
    document = schema(name)
    check_schema(document)
    assert document["title"]
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("name", schema_names())
def test_every_reference_leads_to_a_file(name: str) -> None:
    for part in parts(schema(name)):
        target = part.get("$ref")
        if isinstance(target, str) and not target.startswith("#"):
            assert target in FILES


@pytest.mark.parametrize("name", schema_names())
def test_every_pattern_is_said_in_words(name: str) -> None:
    for part in parts(schema(name)):
        if isinstance(part.get("pattern"), str):
            # It is said behind "… is not".
            assert part.get("x-allowed"), f"{part['pattern']} says nothing to people"
            assert not part["x-allowed"].startswith("is "), part["x-allowed"]


@pytest.mark.parametrize("urn", ["ada", "urn:" + "x" * 500])
def test_what_a_pattern_refuses_is_told_what_is_allowed(urn: str) -> None:
    with pytest.raises(SchemaViolation) as caught:
        validate("urn", urn)

    assert caught.value.violations[0].problem.endswith(" is not a URN such as urn:headrace:user:ada")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_an_object_and_nothing_else(name: str) -> None:
    wrong: object
    for wrong in (None, [], "x", 5, True):
        with pytest.raises(SchemaViolation):
            validate(name, wrong)


def test_every_schema_that_a_route_names_is_there() -> None:
    for operation in OPERATIONS:
        for name in (operation.request_schema, operation.response_schema):
            assert name is None or name in schema_names(), f"{operation.name}: {name}"


def test_a_function_needs_source_or_pickle_and_is_told_so_without_its_code() -> None:
    big = "x" * 100_000
    with pytest.raises(SchemaViolation) as caught:
        validate("function-registration", {"name": "f", "python_version": "3.11", "description": big})
    assert "`source`, `pickled`, or both" in str(caught.value)
    assert len(str(caught.value)) < 1000
    with pytest.raises(SchemaViolation) as caught:
        validate("function-registration", {"name": big, "python_version": "3.11", "source": "x"})
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"concurency": 1}, "there is no field 'concurency' here; did you mean 'concurrency'?"),
        ({"partial_failures": True}, "there is no field 'partial_failures' here; known: concurrency, rate, "),
        ({"a": 1, "b": 2}, "there are no fields 'a', 'b' here; known: concurrency, "),
    ],
)
def test_an_unknown_field_is_told_with_those_that_there_are(document: dict[str, Any], problem: str) -> None:
    with pytest.raises(SchemaViolation) as caught:
        validate("subscription-flow", document)
    assert caught.value.violations[0].problem.startswith(problem)


@pytest.mark.parametrize("wait", [0, 5, 0.5, "5s", "500ms"])
def test_a_wait_is_a_number_or_a_text(wait: object) -> None:
    validate("wait", wait)


@pytest.mark.parametrize(
    "urn", ["urn:headrace:user:ada", "urn:globus:auth:identity:6f4a4c7e-2c4f-4b7a-9d2b-0a3f2c1d4e5f"]
)
def test_principals_are_urns(urn: str) -> None:
    validate("urn", urn)


@pytest.mark.parametrize("urn", ["ada", "urn:", "urn:headrace:user:a b", "public"])
def test_other_texts_are_not_principals(urn: str) -> None:
    with pytest.raises(SchemaViolation):
        validate("urn", urn)


@pytest.mark.parametrize("reference", ["#/nowhere", "file:///etc/hostname", "http://127.0.0.1:1/schema"])
def test_a_schema_of_somebodys_own_fetches_nothing_and_says_what_it_lacks(reference: str) -> None:
    with pytest.raises(SchemaViolation, match="which is not in it"):
        validate_against({"properties": {"x": {"$ref": reference}}}, {"x": 1})
