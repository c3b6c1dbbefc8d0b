"""Whether what an event has in one field passes."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.bus.filters.patterns.operators import Alternatives, Test
from headrace.bus.filters.patterns.paths import Fields, Place
from headrace.bus.filters.patterns.scalars import LongNumber, Scalar


class FieldTest:
    """The alternatives of one field, ready to be tried. `field` is its number."""

    __slots__ = ("_exists", "_groups", "_lengths", "_literals", "_tests", "absent", "field")

    def __init__(self, field: int, alternatives: Alternatives) -> None:
        self.field = field
        self.absent = alternatives.absent
        self._exists = alternatives.exists
        self._literals = frozenset(alternatives.literals)
        self._tests: tuple[Test, ...] = tuple(alternatives.tests) + _range_tests(alternatives)
        self._groups = tuple(alternatives.groups)
        self._lengths = tuple(alternatives.lengths)

    def fits(self, value: Scalar) -> bool:
        """Whether one value will do."""
        return self._exists or value in self._literals or any(test(value) for test in self._tests)

    def passes(self, fields: Fields) -> bool:
        """Whether the field passes in an event without arrays of objects."""
        found = fields.found[self.field]
        if not found and not fields.lengths:
            return self.absent
        if found and self._exists:
            return True
        literals, tests = self._literals, self._tests
        for value, _ in found:
            if value in literals:
                return True
            for test in tests:
                if test(value):
                    return True
        return (self.absent and not found) or next(self._places_of_groups(fields), None) is not None

    def may_pass(self, fields: Fields) -> bool:
        """Whether the field can pass, whichever elements of arrays are chosen."""
        return self.absent or self.passes(fields)

    def places(self, fields: Fields) -> Iterator[Place]:
        """Where values lie that pass."""
        for value, place in fields.found[self.field]:
            if self.fits(value):
                yield place
        yield from self._places_of_groups(fields)

    def _places_of_groups(self, fields: Fields) -> Iterator[Place]:
        for length, place in fields.lengths.get(self.field, ()) if self._lengths else ():
            if any(test(length) for test in self._lengths):
                yield place
        if self._groups:
            groups: dict[Place, list[Scalar]] = {}
            for value, place in fields.found[self.field]:
                groups.setdefault(place, []).append(value)
            for place, values in groups.items():
                if any(test(values) for test in self._groups):
                    yield place


def _range_tests(alternatives: Alternatives) -> tuple[Test, ...]:
    def holds(value: Scalar) -> bool:
        if type(value) is str:
            return any(each.holds(value) for each in ranges)
        if alternatives.numeric or not isinstance(value, (float, LongNumber)):
            return False
        digits = value.text if isinstance(value, LongNumber) else repr(int(value) if value.is_integer() else value)
        return any(each.holds_digits(digits) for each in ranges)

    ranges = tuple(alternatives.ranges)
    return (holds,) if ranges else ()
