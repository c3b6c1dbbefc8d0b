"""The rules of a Choice state.

A test of another type than the value's is false, as in the Amazon States Language; a variable that is not there is an
exception, except for `IsPresent`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.sdk.flows.errors import PathMissing
from headrace.sdk.flows.parameters import Names, value_at
from headrace.sdk.flows.paths import Path
from headrace.sdk.flows.timestamps import moment

_ORDERS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "Equals": operator.eq,
    "LessThan": operator.lt,
    "LessThanEquals": operator.le,
    "GreaterThan": operator.gt,
    "GreaterThanEquals": operator.ge,
}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _truth(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "String": _text,
    "Numeric": _number,
    "Timestamp": moment,
    "Boolean": _truth,
}
"""How a value is read; None when it is of another type."""

_KINDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "IsNull": lambda value: value is None,
    "IsNumeric": lambda value: _number(value) is not None,
    "IsString": lambda value: isinstance(value, str),
    "IsBoolean": lambda value: isinstance(value, bool),
    "IsTimestamp": lambda value: moment(value) is not None,
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparing test: `NumericLessThanPath` is numbers, less than, by path."""

    read: Callable[[Any], Any]
    compare: Callable[[Any, Any], bool]
    by_path: bool

    def holds(self, value: Any, wanted: Any) -> bool:
        """Whether both are of the type, and stand so to each other."""
        left, right = self.read(value), self.read(wanted)
        return left is not None and right is not None and self.compare(left, right)


def _comparisons() -> dict[str, Comparison]:
    found = {}
    for kind, read in _READERS.items():
        for order, compare in _ORDERS.items() if kind != "Boolean" else [("Equals", operator.eq)]:
            found[f"{kind}{order}"] = Comparison(read, compare, by_path=False)
            found[f"{kind}{order}Path"] = Comparison(read, compare, by_path=True)
    return found


COMPARISONS: Final[Mapping[str, Comparison]] = _comparisons()
TESTS: Final = (*COMPARISONS, "StringMatches", "IsPresent", *_KINDS)
"""The names of all tests."""
COMBINED: Final = ("And", "Or", "Not")


def holds(rule: Mapping[str, Any], names: Names) -> bool:
    """Whether a rule is true. Raises `StateFailed` for a variable, or a path of a test, that is not there."""
    if "And" in rule:
        return all(holds(each, names) for each in rule["And"])
    if "Or" in rule:
        return any(holds(each, names) for each in rule["Or"])
    if "Not" in rule:
        return not holds(rule["Not"], names)
    return _test_holds(rule, names)


def _test_holds(rule: Mapping[str, Any], names: Names) -> bool:
    test = next(name for name in TESTS if name in rule)
    wanted = rule[test]
    if test == "IsPresent":
        return _is_present(rule["Variable"], names) is wanted
    value = value_at(rule["Variable"], names, field="Variable")
    if test == "StringMatches":
        return isinstance(value, str) and matches(wanted, value)
    if test in _KINDS:
        return _KINDS[test](value) is wanted
    comparison = COMPARISONS[test]
    if comparison.by_path:
        wanted = value_at(wanted, names, field=test)
    return comparison.holds(value, wanted)


def matches(pattern: str, text: str) -> bool:
    """Whether a text fits a pattern, in which `*` is any text and `\\*` a star; without ever looking back."""
    first, *others = _pieces(pattern)
    if not others:
        return text == first
    *middle, last = others
    if not text.startswith(first):
        return False
    at = len(first)
    for piece in middle:
        at = text.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return len(text) - at >= len(last) and text.endswith(last)


def _pieces(pattern: str) -> list[str]:
    """What stands between the stars."""
    pieces, escaped = [""], False
    for character in pattern:
        if escaped or character not in "\\*":
            pieces[-1] += character
            escaped = False
        elif character == "\\":
            escaped = True
        else:
            pieces.append("")
    return pieces


def _is_present(text: str, names: Names) -> bool:
    path = Path.parse(text)
    try:
        found = path.find(names)
    except PathMissing:
        return False
    return path.is_reference or bool(found)
