"""Which elements of arrays a rule's fields may come from, all together.

Fields are taken in their order. After each, what is known is a set of choices: for some arrays, which element it is.
The next field's values must lie in these elements, or in arrays for which nothing was chosen yet. A choice is forgotten
when no later field lies below its array, so there are never many more of them than the event has values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from headrace.bus.filters.patterns.field_test import FieldTest
from headrace.bus.filters.patterns.paths import Fields, Place

Choice = frozenset[tuple[int, int]]
"""The element that was chosen in each array."""

_NOTHING: Choice = frozenset()


class Choices:
    """Tries rules on one event. What it found out about a field's values serves all rules."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._fitting: dict[int, _Places] = {}
        self._present: dict[int, _Places] = {}

    def fit(self, rule: list[FieldTest]) -> bool:
        """Whether there are elements in which all of the fields pass."""
        choices = {_NOTHING}
        for test in rule:
            choices = self._after(test, choices)
            if not choices:
                return False
        return True

    def _after(self, test: FieldTest, choices: set[Choice]) -> set[Choice]:
        fitting = self._fitting.get(id(test))
        if fitting is None:
            fitting = self._fitting[id(test)] = _Places(test.places(self._fields))
        after = {merged for choice in choices for merged in fitting.beside(choice)}
        if test.absent:
            present = self._places_of(test.field)
            # Absent means: from none of the elements chosen so far. Where nothing was chosen, from nowhere.
            after |= {choice for choice in choices if not present.any_beside(choice)}
        lasts, number = self._fields.lasts, test.field
        return {frozenset(pair for pair in choice if lasts[pair[0]] > number) for choice in after}

    def _places_of(self, field: int) -> _Places:
        places = self._present.get(field)
        if places is None:
            places = self._present[field] = _Places(place for _, place in self._fields.found[field])
        return places


class _Places:
    """Places of values, by the arrays that they lie in, so that those in chosen elements are found without a search."""

    __slots__ = ("_arrays", "_here")

    def __init__(self, places: Iterable[Place]) -> None:
        self._here = False
        self._arrays: dict[int, dict[int, _Places]] = {}
        for place in places:
            self._put(place)

    def _put(self, place: Place) -> None:
        node = self
        for array, index in place:
            below = node._arrays.setdefault(array, {})
            if index not in below:
                below[index] = _Places(())
            node = below[index]
        node._here = True

    def beside(self, choice: Choice) -> Iterator[Choice]:
        """The choice with each of these places that agrees with it."""
        for added in self._agreeing(dict(choice)):
            yield choice | added if added else choice

    def any_beside(self, choice: Choice) -> bool:
        """Whether any of these places agrees with the choice."""
        return next(self._agreeing(dict(choice)), None) is not None

    def _agreeing(self, chosen: dict[int, int]) -> Iterator[Choice]:
        if self._here:
            yield _NOTHING
        for array, elements in self._arrays.items():
            index = chosen.get(array)
            if index is not None:
                if index in elements:
                    yield from elements[index]._agreeing(chosen)
                continue
            for number, below in elements.items():
                for added in below._agreeing(chosen):
                    yield added | {(array, number)}
