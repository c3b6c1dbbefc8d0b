"""Many alternatives of one kind, asked at once: what one value costs does not grow with how many there are.

A pattern may name a thousand prefixes, and an event a thousand values in one array: tried one by one they would be a
million tests. So beginnings and ends are looked up in a sorted list of them, ranges in a sorted list of intervals, and
wildcards by a text that each must hold.
"""

from __future__ import annotations

import string
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Generic, Protocol, TypeVar

from headrace.bus.filters.patterns.scalars import Scalar

Test = Callable[[Any], bool]

LEAST_MANY: Final = 6
"""Fewer are tried one by one."""

_SHORT = 8
_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


class Ordered(Protocol):
    """What can be put in order."""

    def __lt__(self, other: Any, /) -> bool:
        """Whether it comes before another."""


V = TypeVar("V", bound=Ordered)

Bound = tuple[V, int]
"""An end of an interval: the value itself (0), or the place just behind it (1)."""


class Intervals(Generic[V]):
    """Intervals of values, each from a lower bound to an upper one that is not in it; those that overlap are merged."""

    def __init__(self, intervals: Iterable[tuple[Bound[V], Bound[V]]]) -> None:
        self._bottoms: list[Bound[V]] = []
        self._tops: list[Bound[V]] = []
        for bottom, top in sorted(each for each in intervals if each[0] < each[1]):
            if self._tops and not self._tops[-1] < bottom:
                self._tops[-1] = max(self._tops[-1], top)
            else:
                self._bottoms.append(bottom)
                self._tops.append(top)

    def hold(self, value: V) -> bool:
        """Whether the value is in one of them."""
        place = bisect_right(self._bottoms, (value, 0)) - 1
        return place >= 0 and (value, 0) < self._tops[place]


def combined(tests: Iterable[Test], many: Mapping[str, Mapping[int, Any]]) -> tuple[Test, ...]:
    """The tests, with those of which there are many of one kind put together. `many` names, for each kind, the places
    of its tests and what each of them wants."""
    left = dict(enumerate(tests))
    made = []
    for kind, wanted in many.items():
        chosen = {place: each for place, each in wanted.items() if kind not in _ANY_CASE or each.isascii()}
        if len(chosen) >= LEAST_MANY:
            made.append(_MAKERS[kind]([*chosen.values()], [left.pop(place) for place in chosen]))
    return (*made, *left.values())


class _Beginnings:
    """Texts of which one is the beginning of a text, found by the one that comes before it in the order."""

    def __init__(self, wanted: Iterable[str]) -> None:
        self._sorted: list[str] = []
        for each in sorted(wanted):
            # Whoever begins with a longer one begins with the shorter, too; without them the neighbour decides.
            if not self._sorted or not each.startswith(self._sorted[-1]):
                self._sorted.append(each)

    def begin(self, text: str) -> bool:
        place = bisect_right(self._sorted, text) - 1
        return place >= 0 and text.startswith(self._sorted[place])


# The quotes belong to what is compared: see `headrace.bus.filters.patterns.texts`.


def _begin(wanted: list[str], _tests: list[Test]) -> Test:
    beginnings = _Beginnings(wanted)
    return lambda value: type(value) is str and beginnings.begin(value + '"')


def _end(wanted: list[str], _tests: list[Test]) -> Test:
    ends = _Beginnings(each[::-1] for each in wanted)
    return lambda value: type(value) is str and ends.begin(value[::-1] + '"')


def _begin_in_any_case(wanted: list[str], _tests: list[Test]) -> Test:
    beginnings = _Beginnings(map(_lower, wanted))
    return lambda value: type(value) is str and beginnings.begin(_lower(value) + '"')


def _end_in_any_case(wanted: list[str], _tests: list[Test]) -> Test:
    ends = _Beginnings(_lower(each)[::-1] for each in wanted)
    return lambda value: type(value) is str and ends.begin(_lower(value)[::-1] + '"')


def _equal_in_any_case(wanted: list[str], _tests: list[Test]) -> Test:
    texts = frozenset(map(_lower, wanted))
    return lambda value: type(value) is str and _lower(value) in texts


def _lower(text: str) -> str:
    """With small letters, of ASCII alone: the Kelvin sign is no k here, though Unicode makes it one."""
    return text.lower() if text.isascii() else text.translate(_ASCII_LOWER)


def _lie_in(wanted: list[tuple[Bound[float], Bound[float]]], _tests: list[Test]) -> Test:
    intervals = Intervals(wanted)
    return lambda value: type(value) is float and intervals.hold(value)


def _fit_wildcards(wanted: list[list[str]], tests: list[Test]) -> Test:
    """Each wildcard is tried only on texts that hold the longest of its pieces, unless looking costs more."""
    by_piece: dict[int, dict[str, list[Test]]] = defaultdict(dict)
    for pieces, test in zip(wanted, tests, strict=True):
        # Of the longest the last: an end is found in few texts.
        piece = max(reversed(pieces), key=len)
        by_piece[len(piece)].setdefault(piece, []).append(test)
    lengths = tuple(by_piece.items())

    def fit(value: Scalar) -> bool:
        if type(value) is not str:
            return False
        size = len(value)
        if sum(size - length + 1 for length, _ in lengths if length <= size) >= len(tests):
            return any(test(value) for test in tests)
        for length, found in lengths:
            windows: Iterable[str] = [value[at : at + length] for at in range(size - length + 1)]
            # The same one is not to be tried again and again; of a few there is little to gain.
            for piece in set(windows) if size > _SHORT else windows:
                candidates = found.get(piece)
                if candidates is not None and any(test(value) for test in candidates):
                    return True
        return False

    return fit


_ANY_CASE: Final = frozenset({"any-case", "any-case prefix", "any-case suffix"})
_MAKERS: Final[dict[str, Callable[[list[Any], list[Test]], Test]]] = {
    "prefix": _begin,
    "suffix": _end,
    "any-case": _equal_in_any_case,
    "any-case prefix": _begin_in_any_case,
    "any-case suffix": _end_in_any_case,
    "wildcard": _fit_wildcards,
    "numeric": _lie_in,
}
