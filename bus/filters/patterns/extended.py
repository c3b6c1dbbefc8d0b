"""Operators beyond EventBridge's, for arrays.

    {"all-of": [M, …]}         for each of the matches the array has an element that fits
    {"none-of": [M, …]}        the field is there, and no element of it fits any of them
    {"array-length": [">", 2]} how many elements the array has, compared as `numeric` compares

A field that is no array counts as an array of one for the first two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from headrace.bus.filters.patterns.field_test import FieldTest
from headrace.bus.filters.patterns.operators import OPERATORS, Alternatives, Operator, numeric_test
from headrace.bus.filters.patterns.reading import Node


def _matches(alternatives: Alternatives, body: Node) -> list[FieldTest]:
    if body.kind != "array" or not body.value:
        raise body.place.refuse("an array of at least one match is needed here")
    tests = []
    for element in body.value:
        own = Alternatives(OPERATORS, alternatives.strict)
        own.read(Node("array", [element], element.place))
        if own.absent or own.exists:
            raise element.place.refuse("exists says nothing about an element")
        tests.append(FieldTest(0, own))
    return tests


def _all_of(alternatives: Alternatives, body: Node) -> None:
    wanted = _matches(alternatives, body)
    alternatives.groups.append(lambda values: all(any(test.fits(value) for value in values) for test in wanted))


def _none_of(alternatives: Alternatives, body: Node) -> None:
    unwanted = _matches(alternatives, body)
    alternatives.groups.append(lambda values: not any(test.fits(value) for value in values for test in unwanted))


def _array_length(alternatives: Alternatives, body: Node) -> None:
    alternatives.lengths.append(numeric_test(body))


EXTENDED: Final[Mapping[str, Operator]] = {
    **OPERATORS,
    "all-of": _all_of,
    "none-of": _none_of,
    "array-length": _array_length,
}
