"""What of a subscription is known to fail before any event has come."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.action_provider.api.subscription_trials import check_shape
from headrace.action_provider.errors import InvalidRequest
from headrace.bus.filters import compile_filter
from headrace.bus.filters.samples import sample_for
from headrace.sdk.input_schema import of_source

TWO = of_source("def f(level, unit='m'):\n    pass\n", "f")
MANY = of_source("def f(first, *rest, flag=False):\n    pass\n", "f")
OPEN = of_source("def f(**more):\n    pass\n", "f")


@pytest.mark.parametrize(
    ("schema", "template"),
    [
        (TWO, None),
        (TWO, {"args": ["{{ event.data.level }}"]}),
        (TWO, {"kwargs": {"level": 1, "unit": "cm"}}),
        (TWO, {"args": [1], "kwargs": {"unit": "cm"}}),
        (MANY, {"args": [1, 2, 3], "kwargs": {"flag": True}}),
        (OPEN, {"kwargs": {"anything": 1}}),
        ({}, {"args": [1, 2, 3, 4]}),
    ],
)
def test_arguments_that_a_function_takes_are_accepted(schema: dict[str, Any], template: Any) -> None:
    check_shape(template, schema)


@pytest.mark.parametrize(
    ("schema", "template", "pointer", "words"),
    [
        (TWO, {}, "/input", "needs 'level'"),
        (TWO, {"args": [1, 2, 3]}, "/input/args", "takes 2 arguments, and 3 are given"),
        (TWO, {"args": [1], "kwargs": {"level": 2}}, "/input/kwargs/level", "by position as well"),
        (TWO, {"args": [1], "kwargs": {"colour": 2}}, "/input/kwargs/colour", "no argument 'colour'"),
        (MANY, {"kwargs": {"flag": True}}, "/input", "needs 'first'"),
    ],
)
def test_arguments_that_it_does_not_take_are_refused_with_their_place(
    schema: dict[str, Any], template: Any, pointer: str, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        check_shape(template, schema)
    assert refused.value.violations[0].pointer == pointer


@pytest.mark.parametrize(
    "document",
    [
        {"exact": {"type": "a", "source": "/b"}},
        {"all": [{"prefix": {"type": "org.x."}}, {"suffix": {"type": ".done"}}, {"exact": {"subject": "s"}}]},
        {"any": [{"exact": {"type": "a"}}, {"exact": {"source": "/b"}}]},
        {"pattern": {"type": ["a", "b"], "data": {"state": ["on"], "n": [300], "deep": {"flag": [True]}}}},
        {"sql": "type = 'a' AND subject LIKE 'x%'"},
        {"not": {"exact": {"type": "other"}}},
    ],
)
def test_an_event_that_passes_is_made_from_what_a_filter_says(document: Any) -> None:
    wanted = compile_filter(document)
    made = sample_for(wanted)
    assert made is not None
    assert wanted.matches(made)


def test_where_a_filter_says_it_in_other_ways_none_is_made() -> None:
    assert sample_for(compile_filter({"pattern": {"data": {"n": [{"numeric": [">", 3]}]}}})) is None
    assert sample_for(compile_filter({"all": [{"exact": {"type": "a"}}, {"exact": {"type": "b"}}]})) is None
