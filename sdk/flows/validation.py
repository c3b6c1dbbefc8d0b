"""Everything that is wrong with a definition, at once: by its schema, and by the rules that a schema cannot say."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from headrace.schemas import SchemaViolation, check_schema, validate, validate_against
from headrace.sdk.flows.checks import checked
from headrace.sdk.flows.data_checks import missing_names
from headrace.sdk.flows.documents import Written
from headrace.sdk.flows.problems import Problem


def problems_of(definition: Written, *, given: Collection[str] | None = None) -> tuple[Problem, ...]:
    """The problems of a definition, in the order of their lines. `given`: the names in its input, where known."""
    if not isinstance(definition.value, dict):
        return (Problem(pointer="", problem="a definition is an object with 'StartAt' and 'States'"),)
    found = [*_violations(definition.value), *checked(definition.value)]
    if given is not None:
        found += missing_names(definition.value, given)
    return _in_order(found, definition)


def problems_of_input(input_schema: Written, value: Any = None, *, given: bool = False) -> tuple[Problem, ...]:
    """The problems of an input schema; else, with an input, those of the input against it."""
    try:
        check_schema(input_schema.value)
    except SchemaViolation as violation:
        found = [Problem(pointer=each.pointer, problem=each.problem) for each in violation.violations]
        return _in_order(found, input_schema)
    if not given:
        return ()
    try:
        # The Flows service takes these along with the input; they are no part of it.
        plain = {key: each for key, each in value.items() if key != "_tokens"} if isinstance(value, dict) else value
        validate_against(input_schema.value, plain)
    except SchemaViolation as violation:
        return tuple(Problem(pointer=each.pointer, problem=each.problem) for each in violation.violations)
    return ()


def names_given(value: Any, input_schema: Any) -> set[str] | None:
    """The names in an input; else those that its schema allows, when it allows no others. None: nobody knows."""
    if isinstance(value, dict):
        return set(value)
    closed = isinstance(input_schema, dict) and input_schema.get("additionalProperties") is False
    properties = input_schema.get("properties") if closed else None
    return set(properties) if isinstance(properties, dict) else None


def _violations(document: dict[str, Any]) -> list[Problem]:
    try:
        validate("flow-definition", document)
    except SchemaViolation as violation:
        return [
            Problem(pointer=each.pointer, problem=each.problem)
            for each in violation.violations
            # `checks` tells of these better: with the place of the field, and what may have been meant.
            if each.keyword != "additionalProperties" and not each.pointer.endswith("/Type")
        ]
    except TypeError:
        return []  # a key of YAML that is no text, of which `checks` tells
    return []


def _in_order(problems: list[Problem], written: Written) -> tuple[Problem, ...]:
    if not problems:
        return ()
    lines = written.lines()
    placed = {replace(each, line=_line(lines, each.pointer)): None for each in problems}
    return tuple(sorted(placed, key=lambda each: (each.line or 0, each.pointer)))


def _line(lines: Any, place: str) -> int | None:
    """The line of a place, or of what it would be in."""
    while place and place not in lines:
        place = place.rpartition("/")[0]
    return lines.get(place) or (1 if lines else None)
