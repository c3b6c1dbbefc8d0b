"""Whether what an event has in one field passes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, Literal

from headrace.bus.filters.explanation import Explanation
from headrace.bus.filters.needs import Anchor, Needs, need
from headrace.bus.filters.patterns.addresses import AddressRanges, address
from headrace.bus.filters.patterns.many import combined
from headrace.bus.filters.patterns.operators import Alternatives, Test
from headrace.bus.filters.patterns.paths import Fields, Place
from headrace.bus.filters.patterns.reading import plain
from headrace.bus.filters.patterns.scalars import LongNumber, Scalar, Word

_MOST_SHOWN: Final = 10


class FieldTest:
    """The alternatives of one field, ready to be tried. `field` is its number."""

    __slots__ = ("_exists", "_groups", "_lengths", "_literals", "_tests", "absent", "alternatives", "field")

    def __init__(self, field: int, alternatives: Alternatives) -> None:
        self.field = field
        self.alternatives = alternatives
        self.absent = alternatives.absent
        self._exists = alternatives.exists
        self._literals = frozenset(alternatives.literals)
        self._tests: tuple[Test, ...] = combined(alternatives.tests, alternatives.many) + _range_tests(alternatives)
        self._groups = tuple(alternatives.groups)
        self._lengths = tuple(alternatives.lengths)

    def needs(self, name: str) -> Needs:
        """What an event needs to pass, where the field has this name."""
        wanted = self.alternatives
        if self.absent or self._exists or self._groups or self._lengths or wanted.ranges:
            return ()
        if len(wanted.tests) > len(wanted.beginnings) or (wanted.beginnings and not _is_attribute(name)):
            return ()
        texts = all(isinstance(each, str) for each in wanted.literals)
        kind: Literal["exact", "field"] = "exact" if texts and _is_attribute(name) else "field"
        if kind == "field" and wanted.beginnings:
            return ()
        return need(
            *(Anchor(kind, name, each) for each in wanted.literals),
            *(Anchor("prefix", name, each) for each in wanted.beginnings),
        )

    def explain(self, name: str, fields: Fields, pointer: str) -> Explanation:
        """Whether the field passes, for itself."""
        found = fields.found[self.field]
        node = self.alternatives.source
        wanted = json.dumps(plain(node), ensure_ascii=False) if node is not None else ""
        values = json.dumps([_shown(value) for value, _ in found[:_MOST_SHOWN]], ensure_ascii=False)
        return Explanation(
            pointer=pointer + (node.place.pointer if node is not None else ""),
            clause=f"{name}: one of {wanted}",
            passed=self.passes(fields),
            found=values if found else f"no value at {name}",
        )

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
            found = address(value)
            return found is not None and ranges.hold(found.hex().upper())
        if alternatives.numeric or not isinstance(value, (float, LongNumber)):
            return False
        digits = value.text if isinstance(value, LongNumber) else repr(int(value) if value.is_integer() else value)
        return ranges.hold(digits)

    ranges = AddressRanges(alternatives.ranges)
    return (holds,) if alternatives.ranges else ()


def _is_attribute(name: str) -> bool:
    # Everything at the top of an event but its data is an attribute, and has a text.
    return "." not in name and name not in ("data", "data_base64")


def _shown(value: Scalar) -> Any:
    match value:
        case Word():
            return value is Word.TRUE
        case LongNumber():
            return value.text
        case float() if value.is_integer():
            return int(value)
        case _:
            return value
