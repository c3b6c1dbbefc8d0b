"""The fields of an event that a pattern asks for, with their places in arrays.

Names are paths with dots, and `{"a.b": 1}` is the same as `{"a": {"b": 1}}`. A value in an array of objects carries the
element it came from, because fields below one array must fit in one element of it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from headrace.bus.filters.patterns.scalars import Repeated, Scalar, scalar

Place = tuple[tuple[int, int], ...]
"""The arrays of objects that a value lies in, outermost first: the number of each, and of the element in it."""

Found = list[tuple[Scalar, Place]]


class Step:
    """One name of a path, and what goes on behind it."""

    __slots__ = ("field", "last", "length", "steps")

    def __init__(self) -> None:
        self.field: int | None = None
        self.length = False
        self.last = -1
        self.steps: dict[str, Step] = {}


class Fields:
    """The fields of one event. `found[n]` are the values of field n, `lengths[n]` how long arrays are that it is, where
    somebody asks for that; `lasts[a]` is the last field below array a."""

    __slots__ = ("found", "lasts", "lengths")

    def __init__(self, count: int) -> None:
        self.found: list[Found] = [[] for _ in range(count)]
        self.lengths: dict[int, Found] = {}
        self.lasts: list[int] = []

    def collect(self, value: Any, step: Step, place: Place = ()) -> None:
        """Take in what lies below a step."""
        kind = type(value)
        if kind is dict:
            dotted = "." in "".join(value)
            if not dotted:
                steps = step.steps
                if len(steps) <= len(value):
                    for name, below in steps.items():
                        if name in value:
                            self.collect(value[name], below, place)
                else:
                    for name, each in value.items():
                        if name in steps:
                            self.collect(each, steps[name], place)
                return
            self._pairs(value.items(), step, place)
        elif kind is list or kind is tuple:
            self._array(value, step, place)
        elif kind is Repeated:
            self._pairs(value.pairs, step, place)
        elif isinstance(value, Mapping):
            self._pairs(value.items(), step, place)
        elif step.field is not None:
            self.found[step.field].append((scalar(value), place))

    def _pairs(self, pairs: Iterable[tuple[str, Any]], step: Step, place: Place) -> None:
        for name, value in pairs:
            below: Step | None = step
            for part in name.split("."):
                below = below.steps.get(part) if below is not None else None
            if below is not None:
                self.collect(value, below, place)

    def _array(self, elements: Sequence[Any], step: Step, place: Place) -> None:
        if step.length and step.field is not None:
            self.lengths.setdefault(step.field, []).append((float(len(elements)), place))
        number = -1
        for index, element in enumerate(elements):
            kind = type(element)
            if kind is str or kind is float or kind is int:
                if step.field is not None:
                    self.found[step.field].append((scalar(element), place))
            elif kind is dict or kind is list or isinstance(element, (Mapping, tuple)):
                if number < 0:
                    number = len(self.lasts)
                    self.lasts.append(step.last)
                self.collect(element, step, (*place, (number, index)))
            else:
                self.collect(element, step, place)


def steps_to(names: list[str], *, lengths: Container[str] = ()) -> Step:
    """The steps that lead to these fields, which are sorted; `lengths` are those whose length matters."""
    root = Step()
    for number, name in enumerate(names):
        step = root
        step.last = number
        for part in name.split("."):
            step = step.steps.setdefault(part, Step())
            step.last = number
        step.field = number
        step.length = name in lengths
    return root


class Paths:
    """Some fields, and their values in events, wherever in arrays these lie."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = sorted(names)
        self._steps = steps_to(self._names)

    def values(self, event: Mapping[str, Any]) -> Iterator[tuple[str, Scalar]]:
        """The fields' values, each with the field's name."""
        fields = Fields(len(self._names))
        fields.collect(event, self._steps)
        for name, found in zip(self._names, fields.found, strict=True):
            for value, _ in found:
                yield name, value
