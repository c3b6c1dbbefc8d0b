"""What is written down around a function so that its source runs alone."""

from __future__ import annotations

import math
import math as maths
from collections import OrderedDict
from collections import OrderedDict as Ordered
from collections.abc import Callable
from typing import Any

import pytest

from headrace.bus.functions.source import source_of

TABLE = {"a": [1, (2.5, None)], "b": {"x"}}
HUGE = list(range(10_000))
UNWRITABLE = object()
NOT_A_NUMBER = math.nan


def outer(n: int) -> int:
    return inner(n) + 1


def inner(n: int) -> int:
    return outer(n - 1) if n else 0


def uses_modules(x: float) -> float:
    return math.floor(x) + maths.ceil(x)


def uses_names() -> int:
    return len(OrderedDict(a=1)) + len(Ordered(b=2))


def uses_constants() -> Any:
    return TABLE


def uses_what_cannot_be_written() -> Any:
    return HUGE, UNWRITABLE, NOT_A_NUMBER


def run_alone(function: Callable[..., Any]) -> Callable[..., Any]:
    source, name = source_of(function)
    scope: dict[str, Any] = {}
    exec(compile(source, "<alone>", "exec", dont_inherit=True), scope)  # noqa: S102 - that it runs is what is tested
    alone: Callable[..., Any] = scope[name]
    return alone


def test_modules_names_and_constants_are_written_before_the_function() -> None:
    assert run_alone(uses_modules)(1.5) == 3
    assert run_alone(uses_names)() == 2
    assert run_alone(uses_constants)() == TABLE


def test_helpers_are_written_once_even_when_they_call_each_other() -> None:
    assert run_alone(outer)(3) == outer(3)
    assert source_of(outer)[0].count("def outer") == 1


def test_what_cannot_be_written_is_left_out_and_missed_only_when_used() -> None:
    with pytest.raises(NameError, match="HUGE"):
        run_alone(uses_what_cannot_be_written)()


def test_a_function_that_refers_to_itself_in_a_closure_has_its_source() -> None:
    def factorial(n: int) -> int:
        return n * factorial(n - 1) if n else 1

    assert run_alone(factorial)(4) == 24


def test_a_class_has_a_source_and_objects_have_none() -> None:
    class Tank:
        def __init__(self, litres: int = 5) -> None:
            self.litres = litres

        def drain(self) -> None:
            self.litres = 0

    assert run_alone(Tank)().litres == 5
    assert source_of(Tank().drain) == ("", "")
    assert source_of(len) == ("", "")


def test_two_lambdas_in_one_statement_have_no_source() -> None:
    pair = (lambda x: x, lambda x: -x)

    assert source_of(pair[0]) == ("", "")
